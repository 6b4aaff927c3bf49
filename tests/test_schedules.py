"""Learning-rate schedules: torch's own where they agree, and counted on the server in updates or samples."""

from functools import partial
from itertools import pairwise
from math import cos, pi

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, StepLR

from asgd.schedules import Constant, Cosine, Step
from tests.scripted import a_job, a_server, an_update, with_formula

COUNTS = range(40)


def ours(schedule) -> list[float]:
    return [schedule.factor(count, 0) for count in COUNTS]


def torchs(make) -> list[float]:
    """The factors of a scheduler of torch, one step per update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = make(optimizer), []
    for _ in COUNTS:
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def agree(schedule, make):
    assert ours(schedule) == pytest.approx(torchs(make), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(("milestones", "gamma"), [([5, 12, 30], 0.1), ([1, 2], 0.5), ([7], 2.0)])
def test_step_is_torchs_multi_step(milestones, gamma):
    agree(Step(milestones, gamma), partial(MultiStepLR, milestones=milestones, gamma=gamma))


def test_step_at_equal_distances_is_torchs_step():
    agree(Step([10, 20, 30], 0.3), partial(StepLR, step_size=10, gamma=0.3))


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_is_torchs_cosine_over_its_length(final):
    agree(Cosine(length=len(COUNTS), final=final), partial(CosineAnnealingLR, T_max=len(COUNTS), eta_min=final))


def test_cosine_stays_at_its_final_factor():
    assert [Cosine(10, 0.25).factor(count, 0) for count in (10, 11, 1000)] == [0.25] * 3
    assert Cosine(10, 0.25).factor(5, 0) == pytest.approx(0.625)


@pytest.mark.parametrize("warmup", [1, 4, 25])
def test_the_warm_up_is_torchs_linear_one(warmup):
    agree(Constant(warmup=warmup), partial(LinearLR, start_factor=1 / (warmup + 1), total_iters=warmup))


def test_without_a_warm_up_the_rate_is_constant():
    assert ours(Constant()) == [1.0] * len(COUNTS)


def test_a_warm_up_multiplies_the_decay():
    factors = ours(Cosine(length=40, warmup=9))
    assert factors == pytest.approx([min(1, (t + 1) / 10) * (1 + cos(pi * t / 40)) / 2 for t in COUNTS])


@pytest.mark.parametrize("schedule", [Step([3], unit="samples"), Cosine(8, unit="samples"), Constant("samples", 4)])
def test_samples_are_counted_where_they_are_the_unit(schedule):
    updates = type(schedule)(**{**vars(schedule), "unit": "updates"})
    assert [schedule.factor(99, count) for count in COUNTS] == [updates.factor(count, 99) for count in COUNTS]


WRONG = [
    (lambda: Constant(unit="epochs"), "schedule.unit=epochs: updates or samples"),
    (lambda: Constant(warmup=-1), "schedule.warmup=-1"),
    (lambda: Step([5, 3]), r"schedule.milestones=\[5, 3\]"),
    (lambda: Step([0, 3]), "increasing counts from 1 on"),
    (lambda: Step([3, 3]), "schedule.milestones"),
    (lambda: Step([3], gamma=0), "schedule.gamma=0"),
    (lambda: Cosine(None), "schedule.length=None"),
    (lambda: Cosine(0), "schedule.length=0"),
    (lambda: Cosine(5, final=1.5), "schedule.final=1.5"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_values_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# On the server


def moves(script, order) -> list[float]:
    """How far each update moved the parameters, whose gradient is one everywhere."""
    path = [script.params[0].item()]
    for worker in order:
        script.arrive(worker)
        path.append(script.params[0].item())
    return [before - after for before, after in pairwise(path)]


@pytest.mark.parametrize("order", [[1] * 8, [1, 2, 1, 2, 1, 2, 1, 2], [2, 2, 2, 1, 1, 2, 1, 2]])
def test_the_server_counts_its_updates_whoever_they_come_from(order):
    options = ("schedule=step", "schedule.milestones=[3,6]", "optimizer.lr=0.5")
    script = with_formula(a_job("topology=async", *options), lambda rank, round, x: 0 * x + 1)
    assert moves(script, order) == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005] * 2)


def test_a_barrier_counts_steps_and_not_gradients():
    options = ("schedule=step", "schedule.milestones=[2]", "optimizer.lr=0.5", "workers=2")
    script = with_formula(a_job("topology=sync", *options), lambda rank, round, x: 0 * x + 1)
    assert moves(script, [1, 2] * 3) == pytest.approx([0, 0.5, 0, 0.5, 0, 0.05])


def test_with_batches_of_one_sample_both_units_are_the_same():
    paths = []
    for unit in ("updates", "samples"):
        options = ("schedule=step", "schedule.milestones=[3]", f"schedule.unit={unit}", "optimizer.lr=0.5")
        script = with_formula(a_job("topology=async", *options), lambda rank, round, x: 0 * x + 1)
        paths.append(moves(script, [1, 2] * 3))
    assert paths[0] == pytest.approx(paths[1])


def test_samples_are_those_of_the_updates_and_not_of_the_epochs_of_a_worker():
    server = a_server(2, schedule=Step([100], gamma=0.5, unit="samples"))
    server.join(1, 10, 0.0), server.join(2, 20, 0.0)
    values = [server.push(an_update(1 + k % 2, k // 2, samples=40), 1.0)[0].model.params[0].item() for k in range(5)]
    assert values[:2] == [-1.0, -2.0] and values[3:] == [values[2] - 0.5, values[2] - 1.0]


def test_a_schedule_scales_every_group_of_the_optimizer_by_its_own_rate():
    server = a_server(1, schedule=Constant(warmup=3), optimizer=partial(torch.optim.SGD, lr=0.4))
    server.join(1, 10, 0.0)
    for round in range(5):
        server.push(an_update(1, round), 1.0)
        expected = 0.4 * min(1, (round + 1) / 4)
        assert server.parameters.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_the_shipped_cosine_ends_where_the_budget_does():
    job = a_job("schedule=cosine", "budget.updates=50")
    assert job.parts["schedule"].length == 50
    assert job.parts["schedule"].factor(50, 0) == 0.0
