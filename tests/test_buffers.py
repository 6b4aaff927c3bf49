"""Running statistics of BatchNorm: what each choice makes of the workers' buffers."""

import pytest
import torch

from asgd.buffers import Latest, Recompute, ServerMean, choose
from asgd.policies import NextVersion
from asgd.rules import MeanOfWorkers
from asgd.weights import Cutoff
from tests.scripted import a_job, a_server, an_update, with_tasks

BATCHNORM = ("model=resnet20", "dataset=digits", "model.depth=8", "dataset.batch_size=8")


def vector(value):
    return torch.tensor([value, 10 * value])


def started(buffers, workers=2, **parts):
    server = a_server(workers, buffers=buffers, **parts)
    for worker in range(1, workers + 1):
        server.join(worker, 10 * worker, 0.0)
    return server


def test_latest_are_the_buffers_of_the_last_applied_update():
    server = started(Latest(vector(0.0)), weight=Cutoff(0))
    assert server.push(an_update(1, buffers=vector(1.0)), 1.0)[0].model.buffers.tolist() == [1.0, 10.0]
    stale = server.push(an_update(2, version=0, buffers=vector(5.0)), 2.0)
    assert stale[0].model.buffers.tolist() == [1.0, 10.0] and server.counts["dropped"] == 1


def test_server_mean_is_the_mean_of_each_workers_last():
    server = started(ServerMean(vector(0.0)))
    assert server.push(an_update(1, buffers=vector(1.0)), 1.0)[0].model.buffers.tolist() == [1.0, 10.0]
    assert server.push(an_update(2, buffers=vector(4.0)), 2.0)[0].model.buffers.tolist() == [2.5, 25.0]
    assert server.push(an_update(1, 1, buffers=vector(2.0)), 3.0)[0].model.buffers.tolist() == [3.0, 30.0]


def test_server_mean_does_not_depend_on_the_order_of_arrival():
    values = {1: vector(0.1), 2: vector(0.7), 3: vector(1.3)}
    means = []
    for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1)):
        choice = ServerMean(vector(0.0))
        for worker in order:
            choice.merge(worker, values[worker])
        means.append(choice.value)
    assert torch.equal(means[0], means[1]) and torch.equal(means[0], means[2])
    assert torch.equal(means[0], torch.stack(list(values.values())).mean(0))


def test_server_mean_forgets_a_worker_that_has_left():
    server = started(ServerMean(vector(0.0)), workers=3)
    for worker in (1, 2, 3):
        server.push(an_update(worker, buffers=vector(float(worker))), 1.0)
    server.leave(3, 2.0)
    assert server.push(an_update(1, 1, buffers=vector(4.0)), 3.0)[0].model.buffers.tolist() == [3.0, 30.0]


def test_server_mean_is_of_those_who_are_there_as_soon_as_one_has_left():
    server = started(ServerMean(vector(0.0)), workers=3, rule=MeanOfWorkers(), policy=NextVersion())
    for worker in (1, 2, 3):
        replies = server.push(an_update(worker, buffers=vector(float(worker))), 1.0)
    assert replies[0].model.buffers.tolist() == [2.0, 20.0]
    server.push(an_update(1, 1, 1, buffers=vector(1.0)), 2.0), server.push(an_update(2, 1, 1, buffers=vector(2.0)), 2.0)
    replies = server.leave(3, 3.0)
    assert [reply.worker for reply in replies] == [1, 2] and replies[0].model.buffers.tolist() == [1.5, 15.0]


def test_server_mean_keeps_its_value_when_the_last_worker_leaves_and_forgets_it_when_another_one_comes():
    server = started(ServerMean(vector(0.0)), workers=1)
    server.push(an_update(1, buffers=vector(1.0)), 1.0)
    server.leave(1, 2.0)
    assert server.join(2, 20, 3.0)[0].model.buffers.tolist() == [1.0, 10.0]
    assert server.push(an_update(2, version=1, buffers=vector(4.0)), 4.0)[0].model.buffers.tolist() == [4.0, 40.0]


def test_recompute_leaves_the_servers_buffers_alone():
    server = started(Recompute(vector(0.5)))
    assert server.push(an_update(1, buffers=vector(9.0)), 1.0)[0].model.buffers.tolist() == [0.5, 5.0]


def test_the_buffers_of_what_is_not_finite_are_not_taken():
    server = started(Latest(vector(0.0)), nonfinite="skip")
    replies = server.push(an_update(1, loss=float("nan"), buffers=vector(7.0)), 1.0)
    assert replies[0].model.buffers.tolist() == [0.0, 0.0]


def test_what_was_given_out_keeps_its_buffers():
    server = started(ServerMean(vector(0.0)))
    given = server.push(an_update(1, buffers=vector(1.0)), 1.0)[0].model.buffers
    copy = given.clone()
    server.push(an_update(1, 1, buffers=vector(2.0)), 2.0), server.push(an_update(2, buffers=vector(3.0)), 3.0)
    server.leave(1, 4.0)
    assert torch.equal(given, copy)


def test_an_unknown_choice_names_the_others():
    with pytest.raises(ValueError, match="buffers=mean: one of server_mean, latest, recompute"):
        choose("mean")


@pytest.mark.parametrize("name", ["latest", "server_mean", "recompute"])
def test_a_batchnorm_network_is_evaluated_with_statistics_that_are_not_the_initial_ones(name):
    job = a_job(f"buffers={name}", problem=BATCHNORM)
    script = with_tasks(job).arrive(1, 2, 1, 2)
    judge = job.task("cpu")
    initial = judge.buffers
    job.evaluate(judge, script.server.snapshot())
    assert not torch.allclose(judge.buffers, initial)
    given = script.server.snapshot().buffers
    assert torch.equal(given, initial) == (name == "recompute")
    last = {update.worker: update.buffers for update in script.updates}
    expected = {"latest": last[2], "server_mean": torch.stack([last[1], last[2]]).mean(0), "recompute": initial}
    assert torch.equal(given, expected[name])


def test_recompute_restores_the_statistics_whatever_the_server_had():
    job = a_job("buffers=recompute", problem=BATCHNORM)
    model, judge = with_tasks(job).arrive(1, 2).server.snapshot(), job.task("cpu")
    first = job.evaluate(judge, model)
    judge.load(model.params, torch.full_like(model.buffers, 3.0))
    assert job.evaluate(judge, model) == first
