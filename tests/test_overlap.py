"""Workers that compute while their last update travels: what each update is computed on, counted and replayed."""

import itertools
import threading
from types import SimpleNamespace

import pytest
import torch

from asgd import results
from asgd.engines.overlapping import Overlapping, Stopped
from asgd.messages import Model, Reply, Update
from asgd.overlap import OverlapLedger
from tests.runs import parameters, pushes, record, replayed, run
from tests.scripted import TOPOLOGIES, Real, a_job, a_server, an_update

MLP = ("model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.batch_size=8")
OVERLAP = "worker.overlap=true"
REFUSED = {
    "backup": "weight", "backup_interrupted": "policy", "dana_dc": "rule", "dana_slim": "worker", "dana_zero": "rule",
    "eamsgd": "worker", "easgd": "worker", "k_sync": "policy", "nag_asgd": "rule", "rennala": "policy",
    "ringmaster": "policy", "ssp_lazy": "copies",
}  # fmt: skip
FIT = [each for each in TOPOLOGIES if each not in REFUSED]


@pytest.mark.parametrize("engine", ["threads", "virtual"])
@pytest.mark.parametrize("codec", ["none", "topk"])
def test_one_worker_is_gradient_descent_with_a_delay_of_one(tmp_path, engine, codec):
    """x(r + 1) = x(r) - rate g(x(r - 1)), but for the first two, both at x(0)."""
    options = (f"engine={engine}", "workers=1", OVERLAP, f"codec={codec}", "optimizer.momentum=0", "budget.updates=12")
    source = run(tmp_path / "run", *options, problem=MLP)
    assert list(pushes(source).staleness) == [0] + [1] * 11
    job = a_job(*options, problem=MLP)
    worker, server = Real(job, 1), job.server(job.task("cpu"))
    versions = [server.snapshot()] * 2
    for _ in range(12):
        payload = worker.compute(versions[-2]).payload
        payload = server.codec.decode(payload) if server.codec else payload
        server.parameters.step(payload, 0)
        versions.append(server.parameters.snapshot(versions[0].buffers))
    assert torch.equal(parameters(source), versions[-1].params)


@pytest.mark.parametrize("topology", ["async", "staleness_aware"])
def test_staleness_is_counted_from_what_an_update_was_computed_on(tmp_path, topology):
    """Nobody waits: a worker's update k is computed on the version after its update k - 2."""
    options = ("engine=virtual", "workers=4", OVERLAP, f"topology={topology}", "budget.updates=200")
    rows, given, expected = pushes(run(tmp_path / "run", *options)), {}, []
    for worker, version in zip(rows.worker, rows.version, strict=True):
        mine = given.setdefault(worker, [0, 0])
        expected.append(version - 1 - mine[-2])
        mine.append(version)
    assert list(rows.staleness) == expected
    assert rows.staleness[50:].mean() == pytest.approx(2 * 4 - 1, abs=0.2)


SOON = ("async", "dc_asgd", "sync", "fedbuff")
CASES = [pytest.param(each, marks=[pytest.mark.slow] * (each not in SOON)) for each in FIT]


@pytest.mark.parametrize("engine", ["threads", "virtual"])
@pytest.mark.parametrize("topology", CASES)
def test_the_replay_is_equal_bit_for_bit(tmp_path, engine, topology):
    options = (f"engine={engine}", f"topology={topology}", "workers=3", OVERLAP, "budget.updates=30")
    options += ("topology.steps=3",) * ("steps" in a_job(f"topology={topology}").config["topology"])
    source = run(tmp_path / "run", *options, problem=MLP)
    assert results.summary(source)["ended"] == "budget" and results.summary(source)["staleness_max"] > 0
    assert replayed(source, tmp_path / "replay")["equal"]
    mine, theirs = (results.updates(folder).drop(columns="apply_s") for folder in (tmp_path / "replay", source))
    assert mine.equals(theirs)  # but for what the server's work took


def test_the_clock_alone_overlaps_as_well(tmp_path):
    options = ("engine=virtual", "workers=5", "model=none", OVERLAP, "timing=exponential", "budget.updates=300")
    source = run(tmp_path / "run", *options, problem=())
    replayed(source, tmp_path / "replay")
    assert record(tmp_path / "replay") == record(source)
    assert pushes(source).staleness[50:].mean() == pytest.approx(9, abs=0.3)


@pytest.mark.parametrize(("compute", "up", "down"), [(1.0, 0.25, 0.5), (1.0, 1.5, 0.75)])
def test_what_takes_longer_decides_in_virtual_time(tmp_path, compute, up, down):
    link = [f"+timing.{way}link={seconds}" for way, seconds in (("up", up), ("down", down))]
    options = ("engine=virtual", "workers=1", "timing=none", f"timing.compute={compute}", *link, "budget.updates=8")
    first = down + compute + up
    for overlap, period in ((True, max(compute, up + down)), (False, first)):
        source = run(tmp_path / str(overlap), *options, f"worker.overlap={overlap}")
        assert list(pushes(source).time_s) == pytest.approx([first + period * round for round in range(8)])


@pytest.mark.parametrize("topology", REFUSED)
def test_what_does_not_fit_is_refused_before_the_start(topology):
    with pytest.raises(ValueError, match=rf"worker\.overlap=true does not fit this method: .*{REFUSED[topology]}"):
        a_job(f"topology={topology}", OVERLAP, "workers=3").check()


@pytest.mark.parametrize("topology", FIT)
def test_the_others_are_taken(topology):
    a_job(f"topology={topology}", OVERLAP, "workers=3").check()


def test_links_that_would_be_slept_and_values_that_are_none_are_refused():
    job = a_job(OVERLAP, "workers=2", "+timing.uplink=0.1")
    with pytest.raises(ValueError, match=r"worker\.overlap=true: timing\.uplink and downlink .* engine=virtual"):
        job.engine.reserve(job)
    with pytest.raises(ValueError, match=r"worker\.overlap=maybe: true or false"):
        a_job("worker.overlap=maybe").check()


def test_who_leaves_takes_two_jobs_along_and_who_waits_one():
    rows = []
    server = a_server(2, ledger=OverlapLedger())
    server.observers.append(SimpleNamespace(event=rows.append, version=lambda *_: None))
    server.join(1, 10, 0.0), server.join(2, 20, 0.0)
    versions = [0, 0]
    for round in range(3):
        server.push(an_update(1, round, versions[-2]), 1.0)
        versions.append(server.version)
    assert [row.staleness for row in rows if row.event == "push"] == [0, 1, 1]
    server.leave(1, 2.0)  # jobs on versions 2 and 3
    server.leave(2, 2.0)  # two on version 0
    assert [row.staleness for row in rows if row.event == "leave"] == [1, 6]
    assert server.ledger.in_flight(3) == 0


def test_a_correction_sees_what_its_update_was_computed_on():
    """``seen`` are the views of one worker's updates: the first version twice, then the one before the last given."""
    seen = []

    def correction(update, view, params, version):
        seen.append(view.clone())
        return update.payload

    server = a_server(1, ledger=OverlapLedger(), correction=correction)
    server.join(1, 10, 0.0)
    for round in range(4):
        server.push(an_update(1, round, max(0, round - 1)), 1.0)
    assert [view[0].item() for view in seen] == [0, 0, -1, -2]


class Slow:
    """An exchange whose answers come when ``free`` says so; version k answers push k - 1."""

    def __init__(self):
        self.free, self.under_way, self.most, self.seen = threading.Semaphore(0), 0, 0, []

    def attach(self, task) -> None:
        task.outbox = torch.zeros(SIZE)

    def join(self, worker: int, session: int) -> Reply:
        return Reply(worker, self.model(0))

    def model(self, version: int) -> Model:
        return Model(version, torch.zeros(1), torch.empty(0))

    def push(self, update: Update) -> Reply:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.free.acquire()
        self.seen.append(update.payload.unique().tolist())
        self.under_way -= 1
        return Reply(update.worker, self.model(update.round + 1) if update.round < 5 else None)


SIZE = 1_200_000


def test_an_update_travels_while_the_next_is_made_in_other_memory():
    slow, task = Slow(), SimpleNamespace(params=torch.zeros(SIZE), outbox=None)
    places, versions = set(), []
    with pytest.raises(Stopped), Overlapping(slow) as exchange:
        exchange.attach(task)
        reply = exchange.join(1, 7)
        for round in itertools.count():
            versions.append(reply.model.version)
            gradient = task.outbox.fill_(round)
            places.add(gradient.data_ptr())
            if round:
                slow.free.release()
            reply = exchange.push(an_update(1, round, payload=gradient))
    assert versions == [0, 0, 1, 2, 3, 4, 5] and slow.most == 1
    assert slow.seen == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]] and len(places) <= 4


def test_what_an_exchange_raises_comes_with_the_next_push():
    class Broken(Slow):
        def push(self, update: Update) -> Reply:
            raise ConnectionError("the server is gone")

    with Overlapping(Broken()) as exchange:
        exchange.attach(SimpleNamespace(params=torch.zeros(3), outbox=None))
        exchange.join(1, 7)
        exchange.push(an_update(1))
        with pytest.raises(ConnectionError, match="the server is gone"):
            exchange.push(an_update(1, 1))


def test_a_batch_that_nobody_got_is_in_no_table(tmp_path):
    source = run(tmp_path / "run", "engine=threads", "workers=2", OVERLAP, "budget.updates=20", problem=MLP)
    sent = pushes(source)
    assert sorted(results.metrics(source).version) == sorted(sent.version - sent.applied - sent.staleness)


@pytest.mark.slow
@pytest.mark.parametrize("payload", ["shared", "wire"])
@pytest.mark.parametrize(("servers", "model"), [(1, ["cnn"]), (2, ["mlp", "model.hidden=[1024,1024]"])])
def test_processes_overlap_and_are_replayed(start, tmp_path, payload, servers, model):
    """The larger model has vectors that are used again, on the worker's side too."""
    way = f"engine.payload={payload}", f"engine.servers={servers}"
    run = start(f"model={model[0]}", *model[1:], OVERLAP, "budget.epochs=null", "budget.updates=40", *way)
    output = run.wait()
    assert run.code == 0, output
    assert results.summary(run.folder)["staleness_mean"] > 1.5
    assert replayed(run.folder, tmp_path / "replay")["equal"]
