"""The guard: updates with a large norm and old ones are refused by choice, counted and on record, on every engine."""

from math import inf, nan, sqrt

import pytest
import torch

from asgd import results
from asgd.codecs import Codec
from asgd.gate import Gate, Guard, norm
from asgd.job import Job
from asgd.ledger import ProtocolError
from asgd.messages import Reply
from asgd.policies import NextVersion
from asgd.rules import MeanOfUpdates, MeanOfWorkers
from asgd.weights import Below
from tests.runs import pushes, replayed, run
from tests.scripted import a_job, a_server, an_update, equal, with_tasks
from tests.test_limits import learned, started, stops

LINEAR = ("model=linear", "dataset=digits", "dataset.batch_size=8")
LIAR = (
    "topology.worker._target_=tests.broken.SendsTimes",
    "+topology.worker.liars=[3]",
    "+topology.worker.factor=1e6",
    "+topology.worker.every=4",
)


def guarded(workers=2, max_norm=None, max_staleness=None, **parts):
    return started(workers, guard=Guard(max_norm, max_staleness), **parts)


# The norm


@pytest.mark.parametrize("numbers", [0, 1, 1 << 14, (1 << 14) + 3, 100_003])
def test_the_norm_is_that_of_double_precision_for_any_number_of_threads(numbers):
    vector, threads = torch.randn(numbers, generator=torch.Generator().manual_seed(numbers)), torch.get_num_threads()
    found = set()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.add(norm(vector))
    torch.set_num_threads(threads)
    assert len(found) == 1
    assert found.pop() == pytest.approx(sqrt((vector.double() ** 2).sum().item()), rel=1e-5)


@pytest.mark.parametrize("numbers", [[3e38, 3e38], [1e30, 0.0]])
def test_a_norm_beyond_single_precision_is_infinite_and_its_numbers_are_finite(numbers):
    gate = guarded(max_norm=1.0, initial=torch.zeros(2)).gate
    update = gate.looked_at(an_update(1, payload=torch.tensor(numbers)))
    assert update.norm == inf and update.finite


# One update


def test_a_norm_beyond_the_limit_changes_nothing_and_is_counted():
    server = guarded(max_norm=3.0)
    events = []
    server.observers.append(type("Seen", (), {"event": lambda self, e: events.append(e), "version": lambda *_: None})())
    server.push(an_update(1, value=sqrt(3)), 1.0)  # the norm of [v, v, v] is sqrt(3) v
    before = learned(server)
    (reply,) = server.push(an_update(2, value=1.7321, loss=0.25), 2.0)
    assert reply.model.version == 1 and equal(learned(server), before)
    assert (server.counts["applied"], server.counts["oversized"]) == (1, 1)
    assert [(event.applied, event.loss) for event in events] == [(1, 0.5), (0, 0.25)]


def test_an_update_older_than_the_limit_changes_nothing_is_counted_and_not_looked_at():
    server = guarded(max_staleness=2)
    for round in range(3):
        server.push(an_update(1, round, version=round), 1.0)
    before = learned(server)
    assert server.takes(1) and not server.takes(0) and server.selective
    (reply,) = server.push(an_update(2, version=0, payload=torch.full((3,), nan)), 2.0)
    assert reply.model.version == 3 and equal(learned(server), before)
    assert (server.counts["outdated"], server.counts["nonfinite"], server.counts["dropped"]) == (1, 0, 0)
    server.push(an_update(2, 1, version=1), 2.0)
    assert server.counts["applied"] == 4


def test_what_the_method_drops_is_dropped_and_what_only_the_guard_refuses_is_outdated():
    server = guarded(weight=Below(2), max_staleness=3)
    for round in range(5):
        server.push(an_update(1, round, version=round), 1.0)
    for round, version in enumerate((1, 2, 3, 4)):  # 4, 3, 2, then 1 version old
        server.push(an_update(2, round, version=version), 2.0)
    assert [server.counts[fate] for fate in ("outdated", "dropped", "applied")] == [1, 2, 6]


def test_what_is_not_finite_is_that_whatever_its_norm():
    server = guarded(max_norm=1.0, nonfinite="skip")
    server.push(an_update(1, payload=torch.tensor([inf, 0.0, 0.0])), 1.0), server.push(an_update(2, loss=nan), 1.0)
    assert (server.counts["nonfinite"], server.counts["oversized"]) == (2, 0)


def test_an_update_that_was_looked_at_before_is_not_looked_at_again():
    server = guarded(max_norm=1.0)
    server.push(an_update(1, value=100.0)._replace(finite=True, norm=0.5), 1.0)
    server.push(an_update(2, value=0.1)._replace(finite=True, norm=1.5), 1.0)
    assert (server.counts["applied"], server.counts["oversized"]) == (1, 1)


class Double(Codec):
    """Travels as it is and counts twice."""

    def decode(self, payload):
        return 2 * payload


def test_what_a_codec_makes_of_a_payload_is_looked_at_whatever_its_sender_says_of_it():
    server = guarded(max_norm=3.0, codec=Double([torch.Size([3])], seed=0, rank=0))
    server.push(an_update(1, value=1.0)._replace(finite=True, norm=1.0), 1.0)  # twice sqrt(3)
    server.push(an_update(2, value=0.5)._replace(finite=False, norm=9.0), 1.0)
    assert (server.counts["oversized"], server.counts["applied"], server.ended) == (1, 1, None)


@pytest.mark.parametrize("payload", [torch.zeros(4), torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)])
def test_a_wrong_shape_is_refused_as_ever(payload):
    server = guarded(max_norm=1.0)
    update = server.gate.looked_at(an_update(1, payload=payload))
    with pytest.raises(ProtocolError, match=r"payload of \d numbers"):
        server.push(update, 1.0)


def test_without_limits_the_gate_is_the_plain_one():
    assert type(a_server(guard=Guard()).gate) is type(a_server().gate) is Gate
    assert type(a_job().server(a_job().task("cpu")).gate) is Gate


def test_a_refused_update_does_not_fill_a_buffer_or_a_barrier():
    server = guarded(rule=MeanOfUpdates(2), max_norm=3.0)
    server.push(an_update(1, value=1.0), 1.0), server.push(an_update(2, value=9.0), 1.0)
    assert server.version == 0
    server.push(an_update(2, 1, value=0.0), 1.0)
    assert server.snapshot().params.tolist() == [-0.5] * 3
    server = guarded(rule=MeanOfWorkers(), policy=NextVersion(), max_norm=3.0)
    assert server.push(an_update(1, value=1.0), 1.0) == []
    (retry,) = server.push(an_update(2, value=9.0), 1.0)
    assert (retry.worker, retry.model.version) == (2, 0)
    assert [reply.worker for reply in server.push(an_update(2, 1, value=0.0), 1.0)] == [1, 2]


# Many in a row


def test_one_bad_worker_however_fast_stops_nobody_who_goes_on_without_it():
    server = guarded(max_norm=3.0)
    for round in range(500):
        server.push(an_update(1, round, value=9.0), 1.0)
    assert server.ended is None and server.counts["oversized"] == 500
    server.push(an_update(2), 2.0)
    assert server.version == 1


def test_a_hundred_in_a_row_from_all_who_compute_end_the_run_and_say_why(caplog):
    server = guarded(max_norm=3.0)
    for round in range(99):
        server.push(an_update(1, round, value=9.0), 1.0)
    assert server.ended is None
    assert stops(server.push(an_update(2, value=9.0), 1.0), 2)
    assert server.ended == "diverged" and server.counts["oversized"] == 100
    (said,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert said.startswith("refused: the last 100 updates, from workers [1, 2]; no other computes")


def test_who_waits_for_a_bad_worker_at_a_barrier_does_not_wait_for_ever():
    server = guarded(rule=MeanOfWorkers(), policy=NextVersion(), max_norm=3.0)
    server.push(an_update(1), 1.0)
    for round in range(99):
        assert server.push(an_update(2, round, value=9.0), 1.0)[0].model is not None
    assert server.push(an_update(2, 99, value=9.0), 1.0) == [Reply(1, None), Reply(2, None)]
    assert server.ended == "diverged"


def test_one_good_update_starts_the_count_anew():
    server = guarded(1, max_norm=3.0)
    for round in range(199):
        server.push(an_update(1, round, value=1.0 if round == 99 else 9.0), 1.0)
    assert server.ended is None
    server.push(an_update(1, 199, value=9.0), 1.0)
    assert server.ended == "diverged"


def test_the_row_goes_on_in_a_restored_server():
    server, again = guarded(1, max_norm=3.0), guarded(1, max_norm=3.0)
    for round in range(99):
        server.push(an_update(1, round, value=9.0), 1.0)
    again.load_state_dict(server.state_dict(1.0))
    again.join(1, 10, 1.0)
    assert again.counts["oversized"] == 99 and again.ended is None
    again.push(an_update(1, 99, value=9.0), 1.0)
    assert again.ended == "diverged"


def test_a_state_from_before_there_was_a_guard_is_loaded():
    state = started(nonfinite="skip").state_dict(1.0)
    state["nonfinite_in_a_row"] = 7
    del state["gate"], state["counts"]["outdated"]
    for server in (a_server(), a_server(guard=Guard(1.0))):
        server.load_state_dict(state)
        assert server.gate.nonfinite_in_a_row == 7 and server.counts["outdated"] == 0


def test_the_first_tenth_and_hundredth_of_each_worker_are_said(caplog):
    server = guarded(3, max_norm=3.0, max_staleness=0)
    for round in range(110):
        server.push(an_update(1, round, value=9.0), 1.0)
    server.push(an_update(3, version=0), 1.0), server.push(an_update(2, version=0), 1.0)
    assert [record.message for record in caplog.records] == [
        "worker 1: update 0 refused, a norm of 15.59, guard.max_norm is 3 (1 of it so far)",
        "worker 1: update 9 refused, a norm of 15.59, guard.max_norm is 3 (10 of it so far)",
        "worker 1: update 99 refused, a norm of 15.59, guard.max_norm is 3 (100 of it so far)",
        "worker 2: update 0 refused, 1 versions old, guard.max_staleness is 0 (1 of it so far)",
    ]


# Whole runs


def assert_guarded(folder, max_norm: float) -> None:
    """Whatever worker 3 multiplied was refused, and nothing else; the figures say so."""
    table, summary = pushes(folder), results.summary(folder)
    lies = (table.worker == 3) & (table["round"] % 4 == 0) & (table.version < table.version.max())
    refused = (table.applied == 0) & table.loss.notna()
    assert summary["ended"] == "budget" and summary["oversized"] == refused.sum() >= lies.sum() > 0
    assert refused[lies].all() and not refused[table.worker != 3].any()
    assert summary["applied"] + summary["oversized"] + summary["late"] == len(table)


@pytest.mark.parametrize(("engine", "codec"), [("virtual", "none"), ("threads", "none"), ("threads", "topk")])
def test_D5_a_run_with_a_bad_worker_is_the_same_when_replayed(tmp_path, engine, codec):
    """The norm is that of the decoded payload: with topk of a tenth of the numbers."""
    options = (f"engine={engine}", "workers=3", f"codec={codec}", "guard.max_norm=20", "budget.updates=60", *LIAR)
    source = run(tmp_path / "run", *options, problem=LINEAR)
    assert_guarded(source, 20)
    found = replayed(source, tmp_path / "replay")
    assert found["equal"] and found["first_rounding"] is None
    for fate in ("oversized", "applied", "late"):
        assert results.summary(tmp_path / "replay")[fate] == results.summary(source)[fate]


@pytest.mark.parametrize("engine", ["virtual", "threads"])
def test_D5_old_updates_are_refused_and_the_run_is_replayed(tmp_path, engine):
    options = (f"engine={engine}", "workers=4", "timing=none", "timing.compute=[1e-3,1e-3,1e-3,2e-2]")
    source = run(tmp_path / "run", *options, "guard.max_staleness=5", "budget.updates=150", problem=LINEAR)
    table, summary = pushes(source), results.summary(source)
    refused = table[(table.staleness > 5) & (table.version < 150)]
    assert 0 < len(refused) <= summary["outdated"] and not refused.applied.any() and refused.loss.isna().all()
    assert summary["staleness_max"] <= 5 and summary["dropped"] == 0
    found = replayed(source, tmp_path / "replay")
    assert found["equal"] and results.summary(tmp_path / "replay")["outdated"] == summary["outdated"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [("engine.shards=2",), ("engine.payload=wire",), ("engine=zmq",)], ids=lambda e: e[0]
)
def test_processes_refuse_the_same(start, tmp_path, engine):
    options = (*engine, "workers=3", "guard.max_norm=20", "budget.epochs=null", "budget.updates=60", "model=linear")
    command = start(*options, *LIAR, "evaluate.every=0", "checkpoint.every=20", "dataset.batch_size=8")
    output = command.wait()
    assert command.code == 0, output
    assert_guarded(command.folder, 20)
    assert "worker 3: update 0 refused, a norm of " in output and ", oversized " in output
    assert replayed(command.folder, tmp_path / "replay")["equal"]


@pytest.mark.slow
def test_several_servers_refuse_what_is_old(start, tmp_path):
    options = ("engine.servers=2", "workers=3", "guard.max_staleness=1", "budget.epochs=null", "budget.updates=60")
    command = start(*options, "model=linear", "evaluate.every=0", "checkpoint.every=20", "dataset.batch_size=8")
    output = command.wait()
    assert command.code == 0, output
    assert results.summary(command.folder)["outdated"] > 0 and results.summary(command.folder)["staleness_max"] <= 1
    assert replayed(command.folder, tmp_path / "replay")["equal"]


def test_an_older_run_without_a_guard_is_still_a_job():
    config = a_job().config
    del config["guard"]
    assert not Job(config).guard and with_tasks(Job(config)).arrive(1, 2).server.version == 2
