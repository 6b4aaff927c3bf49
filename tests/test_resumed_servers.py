"""A server restored from a file goes on bit for bit like the one that was never interrupted, in every topology."""

import copy

import numpy as np
import pytest
import torch

from asgd import checkpoints
from asgd.buffers import ServerMean
from asgd.policies import BoundedLead, NextVersion
from asgd.rules import MeanOfUpdates, MeanOfWorkers
from tests.scripted import TOPOLOGIES, Real, Script, a_job, a_server, an_update, equal, facts, with_formula, with_tasks

BATCHNORM = ("model=resnet20", "model.depth=8", "dataset=digits", "buffers=server_mean")
ADVANCED = (
    "optimizer=sgd",
    "optimizer.momentum=0.9",
    "optimizer.weight_decay=0.01",
    "schedule=cosine",
    "schedule.length=100",
)


def through_a_file(server, folder, now: float = 0.0) -> dict:
    checkpoints.save(folder, {"server": server.state_dict(now)}, keep=1)
    return checkpoints.load(folder)["server"]


def restored(job, server, folder):
    """A fresh server of the same job, with the state of ``server`` and all workers back, at what they were given."""
    other = job.server(job.task("cpu"))
    other.load_state_dict(through_a_file(server, folder))
    for worker in range(1, job.workers + 1):
        other.join(worker, 10 * worker, 0.0)
    for worker, entry in server.ledger.items():
        other.ledger[worker].reply = entry.reply
    other.reads = copy.deepcopy(server.reads)
    return other


def random_gradient(rank, round, params):
    return torch.randn(params.shape, generator=torch.Generator().manual_seed(1000 * rank + round), dtype=params.dtype)


def learned(server) -> dict:
    """The state, but for seconds, duplicates and the models that were given out, those of joins among them."""
    state = facts(server)["state"]
    state.pop("seconds"), state.pop("given")
    return state


def same_life(script, other, generator, arrivals: int) -> None:
    """Both servers get the same updates in the same order, and do the same at each."""
    for _ in range(arrivals):
        held = set(script.held)
        script.arrive_at_random(generator, 1)
        update = script.updates[-1]
        replies = other.push(update, script.now)
        assert {reply.worker for reply in replies} == set(script.held) - (held - {update.worker})
        assert all(torch.equal(reply.model.params, script.held[reply.worker].params) for reply in replies)
        assert equal(learned(other), learned(script.server))


@pytest.mark.parametrize("arrivals", [11, 14, 17])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_restored_server_does_what_the_uninterrupted_one_does(topology, arrivals, tmp_path):
    job = a_job(f"topology={topology}", "workers=4", *ADVANCED)
    script, generator = with_formula(job, random_gradient), np.random.default_rng(arrivals)
    script.arrive_at_random(generator, arrivals)
    same_life(script, restored(job, script.server, tmp_path), generator, 25)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("topology", ["async", "sync"])
def test_a_restored_server_has_its_batchnorm_statistics_and_adams_moments(topology, optimizer, tmp_path):
    job = a_job(f"topology={topology}", f"optimizer={optimizer}", "workers=3", problem=BATCHNORM)
    script, generator = with_formula(job, random_gradient), np.random.default_rng(1)
    script.arrive_at_random(generator, 7)
    other = restored(job, script.server, tmp_path)
    assert torch.equal(other.snapshot().buffers, script.server.snapshot().buffers)
    same_life(script, other, generator, 8)


def test_gradients_that_wait_for_a_step_are_restored(tmp_path):
    script = with_formula(a_job("topology=softsync", "workers=5"), random_gradient).arrive(1, 2, 3, 4, 5, 1, 2, 3)
    assert len(script.server.rule.received) == 3
    state = through_a_file(script.server, tmp_path)
    received = [update for update, _ in state["rule"]["received"]]
    assert [update["worker"] for update in received] == [1, 2, 3]
    assert all(torch.equal(u["payload"], random_gradient(u["worker"], 1, script.params)) for u in received)


@pytest.mark.parametrize("arrived", [(), (2,), (3, 1)], ids=["at a step", "one arrived", "two arrived"])
@pytest.mark.parametrize("topology", ["sync", "local_sgd"])
def test_a_barrier_interrupted_anywhere_ends_as_if_it_had_not_been(topology, arrived, tmp_path):
    job = a_job(f"topology={topology}", "workers=3", "schedule=cosine", "schedule.length=20")
    whole = with_tasks(job).arrive(*(1, 2, 3) * 8)
    first = with_tasks(job).arrive(*(1, 2, 3) * 4, *arrived)
    server = job.server(job.task("cpu"))
    server.load_state_dict(through_a_file(first.server, tmp_path))
    workers = {rank: Real(job, rank, server.ledger[rank].round) for rank in (1, 2, 3)}
    second = Script(server, workers)
    assert second.held.keys() == {1, 2, 3} - set(arrived)
    second.arrive(*(worker for worker in (1, 2, 3) if worker not in arrived), *(1, 2, 3) * 3)
    assert torch.equal(second.params, whole.params) and second.server.version == 8


def test_the_clocks_of_bounded_lead_survive(tmp_path):
    job = a_job("topology=ssp", "topology.slack=2", "workers=3")
    script = with_formula(job, random_gradient).arrive(1, 1, 1, 2)
    assert script.held.keys() == {2, 3}
    other = restored(job, script.server, tmp_path)
    assert other.ledger.waiting() == [1] and [other.ledger[w].clock for w in (1, 2, 3)] == [3, 1, 0]


def test_samples_seconds_and_counts_go_on(tmp_path):
    server = a_server(1)
    server.join(1, 10, 100.0), server.push(an_update(1), 104.0), server.push(an_update(1), 105.0)
    other = a_server(1)
    other.load_state_dict(through_a_file(server, tmp_path, now=105.0))
    other.join(1, 11, 500.0)
    assert other.training_seconds(502.0) == 5.0 + 2.0
    assert other.samples == 4 and other.counts == server.counts and other.counts["duplicate"] == 1


# Interrupted in a barrier, and not everybody comes back


def interrupted(folder, **parts):
    """A restored server of two workers, of whom worker 1 has contributed to version 0; nobody has come back yet."""
    parts = {"rule": MeanOfWorkers(), "policy": NextVersion()} | parts
    server, other = a_server(2, **parts), a_server(2, **parts)
    server.join(1, 10, 0.0), server.join(2, 20, 0.0), server.push(an_update(1, value=2.0), 1.0)
    other.load_state_dict(through_a_file(server, folder))
    return other


def test_who_waited_goes_on_when_the_other_does_not_come_back(tmp_path):
    server = interrupted(tmp_path)
    assert server.join(1, 11, 2.0) == []
    replies = server.leave(2, 3.0)
    assert [reply.worker for reply in replies] == [1] and replies[0].model.params.tolist() == [-2.0] * 3


def test_who_waited_goes_on_when_the_other_was_lost_first(tmp_path):
    server = interrupted(tmp_path)
    assert server.leave(2, 2.0) == []
    replies = server.join(1, 11, 3.0)
    assert [reply.worker for reply in replies] == [1] and replies[0].model.params.tolist() == [-2.0] * 3


def test_bounded_lead_goes_on_when_the_other_does_not_come_back(tmp_path):
    server = interrupted(tmp_path, rule=MeanOfUpdates(), policy=BoundedLead(0))
    assert server.join(1, 11, 2.0) == [] or server.started
    assert [reply.worker for reply in server.leave(2, 3.0)] == [1]


def test_the_statistics_of_who_does_not_come_back_are_forgotten(tmp_path):
    parts = {"buffers": ServerMean(torch.zeros(2)), "rule": MeanOfUpdates()}
    server, other = a_server(2, **parts), a_server(2, buffers=ServerMean(torch.zeros(2)))
    for worker in (1, 2):
        server.join(worker, 10 * worker, 0.0)
    for worker in (1, 2):
        server.push(an_update(worker), 1.0)
    other.load_state_dict(through_a_file(server, tmp_path))
    other.join(1, 11, 2.0), other.leave(2, 3.0)
    replies = other.push(an_update(1, 1, 2, session=11, buffers=torch.tensor([5.0, 7.0])), 4.0)
    assert replies[0].model.buffers.tolist() == [5.0, 7.0]
