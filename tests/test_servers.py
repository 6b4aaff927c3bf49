"""Several servers are one: the same parameters bit for bit, in whatever order their messages to each other arrive."""

import copy
from functools import partial
from math import inf, nan

import numpy as np
import pytest
import torch

from asgd import elementwise
from asgd.corrections import DelayCompensation
from asgd.engines.parts import UNIT, cut, joined, parts
from asgd.gate import Guard
from asgd.momentum import MomentumPerWorker
from asgd.parameters import Parameters
from asgd.reads import CachedReads
from asgd.robust import CoordinateMedian, Krum, TrimmedMean
from asgd.rules import MeanOfUpdates
from asgd.schedules import Constant
from tests.scripted import DIGITS, TOPOLOGIES, Formula, Real, Script, a_job, a_server, equal
from tests.several import Several

LINEAR = ("model=linear", "dataset=digits", "dataset.batch_size=8")  # 650 parameters: 40 units and 10 numbers
OPTIMIZERS = {
    "sgd": ("optimizer=sgd",),
    "momentum": ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true", "optimizer.weight_decay=0.01"),
    "adamw": ("optimizer=adamw", "schedule=cosine", "schedule.length=60"),
    "unfused": ("optimizer=adam", "optimizer.fused=false"),
}
BATCHNORM = ("model=resnet20", "model.depth=8", "dataset=digits", "buffers=server_mean")


def a_gradient(rank, round, params):
    return torch.randn(params.shape, generator=torch.Generator().manual_seed(1000 * rank + round), dtype=params.dtype)


def pulled(rank, round, params):
    return 0.1 * params + a_gradient(rank, round, params)


def workers(job) -> dict[int, Formula]:
    return {rank: Formula(rank, pulled) for rank in range(1, job.workers + 1)}


def schedule(server, job, made=workers, arrivals: int = 40) -> Script:
    """The same arrivals for every ``server`` of the job: joins, random workers, a death, and more of them."""
    script, generator = Script(server, made(job)), np.random.default_rng(3)
    script.arrive_at_random(generator, arrivals // 2)
    script.leave(2)
    script.arrive_at_random(generator, arrivals // 2)
    return script


def learned(server) -> dict:
    """The state, but for who has looked whether an update is finite."""
    state = server.state_dict(now=0.0)
    for update, _ in state["rule"]["received"]:
        update.pop("finite")
    return state


def compared(job, count: int, made=workers, seed: int = 0) -> None:
    """A schedule on one server and on several: every event, model and the whole state are the same."""
    one = schedule(job.server(job.task("cpu")), job, made)
    several = schedule(Several(job, count, np.random.default_rng(seed)), job, made)
    assert several.events == one.events and several.stopped == one.stopped
    assert several.held.keys() == one.held.keys()
    assert all(equal(several.held[worker], model) for worker, model in one.held.items())
    assert equal(learned(several.server), learned(one.server))
    assert one.server.version > 1


@pytest.mark.parametrize("topology", [each for each in TOPOLOGIES if "krum" not in each])
def test_every_topology_of_single_parameters_is_the_same_on_three_servers(topology):
    options = [f"topology={topology}", "workers=4", *OPTIMIZERS["sgd"]]
    options += ["topology.count=3"] if topology in ("fedbuff", "k_batch_async") else []
    compared(a_job(*options, problem=LINEAR), 3)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("topology", ["async", "sync", "dc_asgd"])
def test_every_optimizer_is_the_same_on_any_number_of_servers(topology, optimizer, count):
    compared(a_job(f"topology={topology}", "workers=3", *OPTIMIZERS[optimizer], problem=LINEAR), count, seed=count)


def test_double_precision_has_parts_of_its_own():
    problem = ("model=quadratic", "dataset=noise", "dataset.shape=[50]")
    compared(a_job("workers=3", "optimizer.lr=0.05", *OPTIMIZERS["momentum"], problem=problem), 3)


def test_real_workers_with_batchnorm():
    """Their buffers are on the first server only."""
    job = a_job("workers=3", "dataset.batch_size=4", problem=BATCHNORM)
    compared(job, 2, lambda job: {rank: Real(job, rank) for rank in range(1, 4)}, 2)
    several = Several(job, 2, np.random.default_rng(0))
    assert several.servers[0].buffers.value.numel() > 0 and several.servers[1].buffers.value.numel() == 0


@pytest.mark.parametrize("kind", sorted(elementwise.OPTIMIZERS, key=lambda kind: kind.__name__))
def test_each_optimizer_of_the_list_moves_every_parameter_by_itself(kind):
    """It has the same bits on parts."""
    generator = torch.Generator().manual_seed(0)
    initial, gradients = torch.randn(650, generator=generator), torch.randn(8, 650, generator=generator)
    servers = [
        [Parameters(initial[part], partial(kind, lr=0.01), Constant()) for part in some]
        for some in (parts(initial, 1), parts(initial, 3))
    ]
    for gradient in gradients:
        for some in servers:
            for server, part in zip(some, parts(initial, len(some)), strict=True):
                server.step(gradient[part], 1)
    one, three = (torch.cat([server.vector.data for server in some]) for some in servers)
    assert torch.equal(one, three) and not torch.equal(one, initial)


# Many messages under way at the same time


def play(several: Several, made: dict[int, Formula], arrivals: int) -> list:
    """Workers push as soon as they are answered while everything is on its way; the order that came of it."""
    events = []
    several.observers.append(Recorded(events))
    for worker, life in made.items():
        several.join(worker, life.session, 0.0)
    while len(events) < arrivals and several.bag:
        several.now += 1.0
        several.step()
        for reply in several.replies():
            several.push(made[reply.worker].compute(reply.model), several.now)
    several.deliver()
    return events


class Recorded:
    def __init__(self, events: list):
        self.events = events

    def event(self, event) -> None:
        self.events.append(event)

    def version(self, server, now) -> None:
        pass


def repeated(job, events: list) -> Script:
    """One server and the recorded order."""
    script = Script(job.server(job.task("cpu")), workers(job), join=False)
    for event in events:
        script.now = event.time_s - 1.0  # it counts one before each arrival
        {"join": script.join, "push": script.arrive, "leave": script.leave}[event.event](event.worker)
    return script


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topology", ["async", "sync", "ssp", "k_batch_async", "dana_zero"])
def test_headers_and_parts_may_come_in_any_order(topology, seed):
    options = ["topology.count=3"] if topology == "k_batch_async" else []
    job = a_job(f"topology={topology}", "workers=4", *options, *OPTIMIZERS["momentum"], problem=LINEAR)
    several = Several(job, 3, np.random.default_rng(seed), patient=False)
    events = play(several, workers(job), 60)
    again = repeated(job, events)
    assert again.events == events and len({event.worker for event in events}) == 4
    assert equal(learned(several), learned(again.server)) and several.version > 5


# What decides is decided once


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("place", [0, 300, 649])
def test_one_number_that_is_not_finite_is_enough_wherever_it_is(place, value):
    job = a_job("nonfinite=skip", "workers=2", problem=LINEAR)
    several = Several(job, 3, np.random.default_rng(0))
    script = Script(several, workers(job)).arrive(1, 2)
    before = script.params.clone()
    update = script.workers[1].compute(script.held.pop(1))
    update.payload[place] = value
    (reply,) = several.push(update, 9.0)
    assert several.version == reply.model.version == 2 and torch.equal(script.params, before)
    assert [server.counts["nonfinite"] for server in several.servers] == [1, 1, 1]
    assert [server.gate.nonfinite_in_a_row for server in several.servers] == [1, 1, 1]
    script.arrive(2)
    assert several.version == 3 and [server.gate.nonfinite_in_a_row for server in several.servers] == [0, 0, 0]


def test_divergence_ends_the_run_on_all():
    job = a_job("workers=2", problem=LINEAR)
    several = Several(job, 2, np.random.default_rng(0))
    script = Script(several, workers(job))
    update = script.workers[1].compute(script.held.pop(1))
    (reply,) = several.push(update._replace(loss=nan), 9.0)
    assert reply.model is None and several.ended == "diverged"


def test_the_first_servers_clock_ends_the_run_on_all():
    job = a_job("workers=2", "budget.seconds=5", problem=LINEAR)
    several = Several(job, 2, np.random.default_rng(0))
    Script(several, workers(job)).arrive(1, 2)
    several.tick(6.9)
    assert several.ended is None
    several.tick(7.1)
    assert several.ended == "budget"


@pytest.mark.parametrize("only", [(0,), (1,), (2,), (0, 2), (1, 2), ()])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_worker_that_dies_between_two_sends_has_sent_nothing(only, seed):
    """What only some servers have is as if it had never come."""
    job = a_job("topology=sync", "workers=3", problem=LINEAR)
    several = Several(job, 3, np.random.default_rng(seed))
    script = Script(several, workers(job)).arrive(1, 2, 3, 1)
    assert several.push(script.workers[2].compute(script.held.pop(2)), 9.0, only=only) == []
    assert several.version == 1
    script.leave(2)
    script.arrive(3, 1, 3)
    one = Script(job.server(job.task("cpu")), workers(job)).arrive(1, 2, 3, 1)
    one.leave(2)
    one.arrive(3, 1, 3)
    assert several.version == 3 and torch.equal(script.params, one.params)
    assert not any(hub.held for hub in several.hubs)


def test_an_update_that_cannot_be_is_its_senders_error_and_counts_nowhere():
    job = a_job("workers=2", problem=LINEAR)
    several = Several(job, 2, np.random.default_rng(0))
    script = Script(several, workers(job)).arrive(1)
    update = script.workers[1].compute(script.held[1])
    several.push(update._replace(round=7), 9.0)
    assert several.coming[1][0].done() and not several.coming[1][1].done()
    with pytest.raises(ValueError, match="round 7 came before round 1"):
        several.coming[1][0].value()
    script.arrive(2)
    assert several.version == 2


def test_the_same_update_again_changes_nothing():
    several = Several(a_job("workers=2", problem=LINEAR), 2, np.random.default_rng(0))
    script = Script(several, {rank: Formula(rank, pulled) for rank in (1, 2)})
    update = script.workers[1].compute(script.held.pop(1))
    (reply,) = several.push(update, 5.0)
    before = copy.deepcopy(learned(several))
    (again,) = several.push(update, 6.0)
    assert equal(again.model, reply.model) and several.servers[0].counts.pop("duplicate") == 1
    before["counts"].pop("duplicate")
    assert equal({**learned(several)}, before)


# Parts and states


@pytest.mark.parametrize(("size", "dtype"), [(650, torch.float32), (48, torch.float32), (1000, torch.float64)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_are_whole_units_and_equal_up_to_one(size, dtype, count):
    vector = torch.arange(size, dtype=dtype)
    found = parts(vector, count)
    assert torch.equal(torch.cat([vector[part] for part in found]), vector) and len(found) == count
    assert all(part.start * dtype.itemsize % UNIT == 0 for part in found)
    sizes = [part.stop - part.start for part in found]
    assert max(sizes) - min(sizes) < 2 * UNIT // dtype.itemsize


def test_a_model_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"engine\.servers=4: .* at least 16 parameters; .* 50, enough for 3"):
        parts(torch.zeros(50), 4)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_state_that_was_taken_apart_is_whole_again(topology):
    """With 650 buffers as with 650 parameters: they are told apart by their names."""
    job = a_job(f"topology={topology}", "workers=4", *OPTIMIZERS["adamw"], problem=LINEAR)
    state = learned(schedule(job.server(job.task("cpu")), job).server)
    state["published"] = state["buffers"]["value"] = torch.ones(650)
    found = parts(state["parameters"]["params"], 3)
    pieces = [cut(state, 650, part) for part in found]
    assert [piece["parameters"]["params"].numel() for piece in pieces] == [part.stop - part.start for part in found]
    assert all(torch.equal(piece["buffers"]["value"], torch.ones(650)) for piece in pieces)
    assert all(torch.equal(piece["published"], torch.ones(650)) for piece in pieces)
    assert equal(joined(pieces, [part.stop - part.start for part in found]), state)


# Who may be in parts


class Clipping(MeanOfUpdates):
    """Does not say that it is element-wise; what it inherits does not count."""

    def direction(self):
        direction = super().direction()
        return direction / max(1.0, direction.norm().item())


class ByNorm(DelayCompensation):
    pass


class Wary(CachedReads):
    pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": Clipping()}, "the rule Clipping does not"),
        ({"rule": Krum(None, 0, 3)}, "the rule Krum does not"),
        ({"guard": Guard(max_norm=2)}, r"guard\.max_norm=2 is for the whole vector; give null"),
        ({"correction": ByNorm(0.1)}, "the correction ByNorm does not"),
        ({"reads": Wary()}, "the reads Wary does not"),
        ({"optimizer": torch.optim.LBFGS}, "the optimizer LBFGS does not .*; ASGD, Adadelta, .* do"),
        ({"optimizer": partial(torch.optim.Adafactor, lr=0.1)}, "the optimizer Adafactor does not"),
        ({"codec": a_job("codec=bf16", problem=DIGITS).codec(a_job(problem=DIGITS).task("cpu"), 0)}, "codec BFloat16"),
    ],
)
def test_what_needs_the_whole_vector_is_refused(options, said):
    with pytest.raises(ValueError, match=rf"^engine\.servers=2: .*{said}"):
        elementwise.check(a_server(**options), "engine.servers=2")


@pytest.mark.parametrize(
    "options",
    [
        {"rule": MeanOfUpdates()},
        {"rule": MomentumPerWorker(0.9)},
        {"rule": CoordinateMedian(None, 3)},
        {"rule": TrimmedMean(3, 1, 3)},
        {"guard": Guard(max_staleness=2)},
    ],
)
def test_what_does_not_is_taken(options):
    elementwise.check(a_server(**options), "engine.servers=2")
