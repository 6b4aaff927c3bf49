"""Stacks of gradients: D2 (the bits of one by one), D3 (the size of a pool is irrelevant), and when there are none."""

import itertools
import logging
import math
import struct
import zlib
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from asgd.data.batch import Batch
from asgd.data.synthetic import mean_output
from asgd.engines import gradients
from asgd.engines.gradients import Exact, Single, Stacked, choose
from asgd.models.cnn import cnn
from asgd.models.dense import linear, mlp
from asgd.models.quadratic import Quadratic
from asgd.task import Task, Work, build_task
from tests.scripted import a_job

PROBLEMS = {
    "linear": ("model=linear", "dataset=digits", "dataset.batch_size=8"),
    "mlp": ("model=mlp", "dataset=digits", "dataset.batch_size=16"),
    "quadratic": ("model=quadratic", "dataset=noise", "dataset.shape=[3]", "model.eigenvalues=[0.3,0.7,1.0]"),
}


def real_works(problem: str, count: int, versions: int) -> tuple[Task, list[Work]]:
    """The task and the first work of ``count`` workers, which hold ``versions`` different snapshots."""
    job = a_job(f"workers={count}", problem=PROBLEMS[problem])
    task = job.task("cpu")
    batches = [next(job.dataset.batches(rank, count)) for rank in range(1, count + 1)]
    return task, with_versions(task, batches, versions)


def with_versions(task: Task, batches: list[Batch], versions: int) -> list[Work]:
    snapshots = [task.params + 0.01 * torch.randn_like(task.params) for _ in range(versions)]
    pairs = zip(itertools.cycle(snapshots), batches, strict=False)
    return [Work(params, task.buffers, batch, seed) for seed, (params, batch) in enumerate(pairs)]


def a_task(module: nn.Module, loss=functional.cross_entropy) -> Task:
    return build_task(lambda: module, loss, seed=1)


def batches(shape, sizes, classes=4) -> list[Batch]:
    """One per entry of ``sizes``; targets are floating where ``classes`` is 0."""
    targets = [torch.randint(classes, (size,)) if classes else torch.randn(size, 1) for size in sizes]
    return [Batch(torch.randn(len(each), *shape), each) for each in targets]


def same_bits(own: list, other: list) -> bool:
    """Payload, loss, right answers, samples and buffers."""
    pairs = list(zip(own, other, strict=True))
    payloads = all(torch.equal(a.payload, b.payload) and a.payload.dtype == b.payload.dtype for (a, _), (b, _) in pairs)
    buffers = all(torch.equal(a, b) and a.dtype == b.dtype for (_, a), (_, b) in pairs)
    return payloads and buffers and all(a[1:] == b[1:] for (a, _), (b, _) in pairs)


def assert_close(own: list, other: list, tolerance: float) -> None:
    for (a, _), (b, _) in zip(own, other, strict=True):
        torch.testing.assert_close(a.payload, b.payload, rtol=tolerance, atol=tolerance * b.payload.abs().max().item())
        assert a.loss == pytest.approx(b.loss, rel=tolerance)
        assert a[2:] == b[2:]


def timed(single: float, stacked: float):
    """A measure that gives these seconds for a gradient."""
    return lambda strategy, works: single if isinstance(strategy, Single) else stacked


FASTER = timed(1e-3, 1e-4)


@pytest.mark.parametrize("versions", [1, 3, 20])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_d2_d3_a_stack_of_any_size_has_the_bits_of_one_by_one(problem, versions):
    task, works = real_works(problem, 20, versions)
    expected = Single(task).solve(works)
    for most in (1, 2, 7, 20):
        stacked = Stacked(task, most=most)
        for count in (1, 2, 3, 19, 20):
            assert same_bits(stacked.solve(works[:count]), expected[:count])


@pytest.mark.parametrize("versions", [1, 20])
def test_nearly_full_stacks_share_one_graph_and_smaller_ones_need_none(versions):
    task, works = real_works("mlp", 20, versions)
    expected, stacked = Single(task).solve(works), Stacked(task, most=20)
    for count in (14, 15, 17, 20, 16, 1):
        answers = stacked.solve(works[:count])
        assert len(answers) == count and same_bits(answers, expected[:count])
    graphs = [len(recorded.graphs) for recorded in stacked.recorded.values()]
    assert sorted(graphs) == [0, 1]


def test_one_by_one_is_the_tasks_own_gradient():
    task, works = real_works("mlp", 4, versions=4)
    for work, (gradient, buffers) in zip(works, Single(task).solve(works), strict=True):
        task.load(work.params, work.buffers)
        own = task.gradient(work.batch)
        assert torch.equal(gradient.payload, own.payload)
        assert gradient[1:] == own[1:]
        assert torch.equal(buffers, task.buffers)


@pytest.mark.parametrize("versions", [1, 5])
@pytest.mark.parametrize("strategy", [Stacked, lambda task: Exact(Stacked(task))])
def test_ragged_batches_keep_their_order(strategy, versions):
    task = a_task(mlp([6], 4, [5]).double())
    works = with_versions(task, batches([6], [8, 3, 8, 8, 1, 3, 8]), versions)
    answers, expected = strategy(task).solve(works), Single(task).solve(works)
    assert [gradient.samples for gradient, _ in answers] == [8, 3, 8, 8, 1, 3, 8]
    assert_close(answers, expected, 1e-12)
    if strategy is not Stacked:
        assert same_bits(answers, expected)


@pytest.mark.parametrize("versions", [1, 4])
def test_d2_float64(versions):
    task = a_task(mlp([6], 4).double())
    works = with_versions(task, batches([6], 10 * [16]), versions)
    answers = Stacked(task).solve(works)
    assert answers[0][0].payload.dtype == torch.float64
    assert_close(answers, Single(task).solve(works), 1e-13)


@pytest.mark.parametrize("versions", [1, 4])
def test_frozen_unused_and_shared_parameters(versions):
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.unused, self.used = nn.Linear(3, 3), nn.Linear(2, 2), nn.Linear(3, 3)
            self.frozen.requires_grad_(False)
            self.again = self.used

        def forward(self, x):
            return self.again(torch.tanh(self.used(self.frozen(x))))

    task = a_task(Partial())
    works = with_versions(task, batches([3], 6 * [8], classes=3), versions)
    answers = Stacked(task).solve(works)
    assert all(gradient.payload[:18].count_nonzero() == 0 for gradient, _ in answers)
    assert_close(answers, Single(task).solve(works), 1e-5)


def test_floating_targets_have_no_right_answers():
    task = a_task(linear([3], 0), functional.mse_loss)
    works = with_versions(task, batches([3], 5 * [4], classes=0), versions=2)
    answers = Stacked(task).solve(works)
    assert [gradient.correct for gradient, _ in answers] == 5 * [None]
    assert_close(answers, Single(task).solve(works), 1e-5)


def test_the_gradients_of_the_quadratic_are_exact():
    task = Task(Quadratic([9]), mean_output)
    works = with_versions(task, batches([9], 7 * [2], classes=0), versions=7)
    pairs = zip(Stacked(task).solve(works), Single(task).solve(works), strict=True)
    assert all(torch.equal(own.payload, other.payload) for (own, _), (other, _) in pairs)


def test_d9_payloads_own_their_memory():
    task, works = real_works("mlp", 6, versions=2)
    payloads = [gradient.payload for gradient, _ in Stacked(task).solve(works)]
    kept = [payload.clone() for payload in payloads]
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in payloads)
    assert not any(each.requires_grad for each in payloads)
    Stacked(task).solve(works)
    task.params.zero_()
    assert all(map(torch.equal, payloads, kept))


def test_works_and_torchs_generator_stay_as_they_are():
    task, works = real_works("linear", 4, versions=2)
    kept = [(work.params.clone(), work.batch.inputs.clone()) for work in works]
    state = torch.get_rng_state()
    Stacked(task).solve(works)
    assert torch.equal(torch.get_rng_state(), state)
    choose("auto", task, works, False, FASTER)
    assert all(
        torch.equal(work.params, a) and torch.equal(work.batch.inputs, b)
        for work, (a, b) in zip(works, kept, strict=True)
    )


def batchnorm_net() -> nn.Module:
    return nn.Sequential(cnn([1, 8, 8], 6, [4]), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))


@pytest.mark.parametrize("versions", [1, 4])
def test_batchnorm_is_stacked_where_nobody_looks_at_the_statistics(versions):
    task = a_task(batchnorm_net())
    works = with_versions(task, batches([1, 8, 8], 6 * [8]), versions)
    before = task.buffers
    answers = Stacked(task, ignores_buffers=True).solve(works)
    assert torch.equal(task.buffers, before)
    assert all(buffers is work.buffers for work, (_, buffers) in zip(works, answers, strict=True))
    assert_close(answers, Single(task).solve(works), 1e-4)
    assert not torch.equal(task.buffers, before)  # the module itself keeps its running statistics


@pytest.mark.parametrize("module", [batchnorm_net(), nn.Sequential(nn.Dropout(0.5), linear([1, 8, 8], 4))])
def test_what_depends_on_more_than_parameters_and_batch_is_computed_one_by_one(module, caplog):
    task = a_task(module)
    works = with_versions(task, batches([1, 8, 8], 4 * [8]), versions=4)
    with caplog.at_level(logging.INFO):
        assert isinstance(choose("auto", task, works, False, FASTER), Single)
    assert "gradients: one by one (" in caplog.text
    with pytest.raises(ValueError, match=r"engine.gradients=stacked: not possible with this model: .*(buffers|andom)"):
        choose("stacked", task, works, False)


def test_buffers_of_other_layers_are_never_ignored():
    task = a_task(nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), linear([3, 5], 4)))
    with pytest.raises(ValueError, match=r"buffers such as 0\.running_mean$"):
        choose("stacked", task, with_versions(task, batches([3, 5], [4, 4]), 1), ignores_buffers=True)


def test_d2_convolutions_agree_within_rounding():
    task = a_task(cnn([1, 8, 8], 10))
    works = with_versions(task, batches([1, 8, 8], 6 * [16], classes=10), versions=6)
    assert_close(choose("stacked", task, works, False).solve(works), Single(task).solve(works), 1e-5)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_auto_takes_what_is_faster(problem, caplog):
    task, works = real_works(problem, 12, versions=1)
    with caplog.at_level(logging.INFO):
        chosen = choose("auto", task, works, False, FASTER)
    assert isinstance(chosen, Exact)
    assert "stacked, 100 us each against 1000 us one by one (12 at once, equal bits; from 1 on)" in caplog.text
    assert same_bits(chosen.solve(works), Single(task).solve(works))
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "measure, reason",
    [(timed(1e-3, 0.9e-3), "1000 us each, against 900 us in stacks of 12"), (timed(0.2, 1e-4), "200 ms each")],
)
def test_auto_computes_one_by_one_what_would_not_gain(measure, reason, caplog):
    task, works = real_works("linear", 12, versions=1)
    with caplog.at_level(logging.INFO):
        assert isinstance(choose("auto", task, works, False, measure), Single)
    assert f"one by one ({reason}" in caplog.text


@pytest.mark.parametrize("what", ["gradients", "losses"])
def test_auto_notices_other_last_bits(what, caplog, monkeypatch):
    task, works = real_works("linear", 12, versions=1)
    true = Stacked.together

    def in_another_order(self, works):
        answers = true(self, works)
        last, buffers = answers[-1]
        other = {"payload": last.payload * (1 + 1e-6)} if what == "gradients" else {"loss": last.loss * (1 + 1e-6)}
        return answers if len(works) < 5 else [*answers[:-1], (last._replace(**other), buffers)]

    monkeypatch.setattr(Stacked, "together", in_another_order)
    with caplog.at_level(logging.INFO):
        assert isinstance(choose("auto", task, works, False, timed(1e-3, 3e-4)), Single)
    assert (
        f"(stacked {what} differ in the last bits; engine.gradients=stacked takes them all the same, 0.3" in caplog.text
    )


@pytest.mark.parametrize("number", range(5))
def test_auto_notices_what_seldom_has_other_last_bits(number, monkeypatch):
    """One loss in five is another in a stack, as sums of products are on some processors."""
    true = Stacked.together

    def in_another_order(self, works):
        answers = true(self, works)
        return [(answer._replace(loss=moved(answer.loss)), buffers) for answer, buffers in answers]

    monkeypatch.setattr(Stacked, "together", in_another_order)
    torch.manual_seed(number)
    task = a_task(mlp([6], 4))
    works = with_versions(task, batches([6], 3 * [5]), versions=3)
    assert isinstance(choose("auto", task, works, False, FASTER), Single)


def moved(loss: float) -> float:
    return math.nextafter(loss, math.inf) if zlib.crc32(struct.pack("d", loss)) % 5 == 0 else loss


def test_small_groups_are_computed_one_by_one():
    task, works = real_works("linear", 12, versions=1)

    def measure(strategy, works):
        return 1e-3 if isinstance(strategy, Single) or len(works) < 5 else 1e-4

    assert choose("auto", task, works, False, measure).least == 5


def test_every_shape_is_tried_for_itself(monkeypatch):
    monkeypatch.setattr(gradients, "SHAPES", 3)
    task = a_task(mlp([6], 4).double())
    exact = Exact(Stacked(task, most=8))
    for size in (8, 7, 6, 5):
        works = with_versions(task, batches([6], 4 * [size]), versions=2)
        assert same_bits(exact.solve(works), Single(task).solve(works))
    assert list(exact.differences.values())[3:] == ["untried"]


def test_time_is_measured_on_real_calls():
    task, works = real_works("linear", 3, versions=1)
    assert 0 < gradients.seconds(Single(task), works) < 1


def test_names():
    task, works = real_works("linear", 2, versions=1)
    assert isinstance(choose("single", task, works, False), Single)
    assert isinstance(choose("stacked", task, works, False), Stacked)
    with pytest.raises(
        ValueError, match=r"engine.gradients=stack: one of auto, single, stacked \(did you mean stacked"
    ):
        choose("stack", task, works, False)


def test_a_partial_loss_keeps_its_arguments():
    module, (batch,) = linear([3], 4), batches([3], [5])
    task = a_task(module, partial(functional.cross_entropy, label_smoothing=0.3))
    expected = functional.cross_entropy(module(batch.inputs), batch.targets, label_smoothing=0.3)
    assert task.gradient(batch).loss == expected.item()
