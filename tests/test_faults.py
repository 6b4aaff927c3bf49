"""What happens to a run when somebody is killed or interrupted: the files stay, the processes do not."""

import json
import signal

import psutil
import pytest

from asgd import results
from tests.conftest import free_port

LONG = ["budget.epochs=null", "budget.seconds=120", "evaluate.every=50"]


def under_way(run) -> bool:
    return len(run.rows("ps/updates.csv")) > 50


def test_ctrl_c_ends_everything_within_5_seconds_and_leaves_complete_files(start):
    run = start(*LONG)
    run.until(lambda: under_way(run))
    run.processes()
    run.process.send_signal(signal.SIGINT)
    assert run.gone(5) == []
    summary = results.summary(run.folder)
    assert summary["ended"] == "interrupted" and run.process.wait() == 130
    updates = results.updates(run.folder)
    assert (updates.applied == 1).sum() == summary["applied"] == summary["updates"]
    assert len(results.metrics(run.folder)) <= len(updates[updates.event == "push"])
    assert (run.folder / "checkpoints").exists()


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_batch_that_takes_for_ever(start):
    run = start(*LONG, "topology.worker._target_=tests.broken.StuckAtRound", "+topology.worker.fails={1: 5, 2: 7}")
    run.until(lambda: len(run.rows("ps/updates.csv")) == 2 + 5 + 7)
    run.processes()
    run.process.send_signal(signal.SIGINT)
    assert run.gone(5) == []
    assert results.summary(run.folder)["ended"] == "interrupted"
    assert results.summary(run.folder)["updates"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("option", ["engine.payload=wire", "worker.overlap=true"])
def test_a_worker_that_is_killed_while_vectors_travel_is_missed(start, option):
    run = start("model=mlp", "model.hidden=[4000]", "budget.epochs=null", "budget.seconds=60", option)
    run.until(lambda: under_way(run))
    run.processes()
    run.node("worker1").kill()
    run.until(lambda: any(",leave,1," in row for row in run.rows("ps/updates.csv")))
    before = len(run.rows("ps/updates.csv"))
    run.until(lambda: len(run.rows("ps/updates.csv")) > before + 20)
    run.process.send_signal(signal.SIGINT)
    assert run.gone(10) == [] and results.summary(run.folder)["failed_workers"] == 1


def test_a_worker_by_hand_says_that_its_server_is_gone(start):
    options = [*LONG, "workers=1", f"engine.port={free_port()}", "evaluate.every=0"]
    server = start("role=ps", *options, name="ps")
    worker = start("role=worker", "rank=1", *options, name="worker")
    server.until(lambda: under_way(server))
    server.process.kill()
    output = worker.wait(20)
    assert worker.code == 1 and "the other node is gone" in output and "Traceback" not in output
    assert len(results.metrics(worker.folder)) > 40


VICTIMS = [("worker1",), ("command",), ("ps", "engine.servers=2"), ("command", "engine.servers=2")]


@pytest.mark.parametrize(
    ("victim", "more"), [("ps", ()), *(pytest.param(each[0], each[1:], marks=pytest.mark.slow) for each in VICTIMS)]
)
def test_no_process_outlives_a_run_whoever_is_killed(start, victim, more):
    run = start(*LONG, "engine.on_worker_failure=stop", *more)
    run.until(lambda: under_way(run))
    run.processes()
    (psutil.Process(run.process.pid) if victim == "command" else run.node(victim)).kill()
    assert run.gone(10) == []
    assert run.wait(5) is not None
    assert run.code != 0


def test_the_others_go_on_when_a_worker_is_killed(start):
    run = start("budget.epochs=null", "budget.updates=200", "workers=3", "topology=sync")
    run.until(lambda: under_way(run))
    run.node("worker2").kill()
    output = run.wait()
    assert run.code == 0, output
    updates = results.updates(run.folder)
    left = updates[(updates.event == "leave") & (updates.worker == 2)].index[0]
    after = updates.iloc[left + 1 :]
    assert set(after[after.event == "push"].worker) == {1, 3}
    assert results.summary(run.folder)["updates"] == 200
    assert results.summary(run.folder)["failed_workers"] == 1
    assert "worker 2 failed" in output


def test_an_exception_in_a_worker_is_shown_with_its_traceback_and_log(start):
    target = "topology.worker._target_=tests.broken.FailsAtRound"
    run = start("budget.epochs=null", "budget.updates=100", target, "+topology.worker.fails={1: 20}")
    output = run.wait()
    assert run.code == 0, output
    assert "worker 1 failed" in output and "RuntimeError: scripted failure at round 20" in output
    log = run.folder / "stats/worker1/worker.log"
    assert str(log) in output
    assert "scripted failure at round 20" in log.read_text()
    pushed = results.updates(run.folder).query("event == 'push' and worker == 1")
    assert list(pushed["round"]) == list(range(20))


@pytest.mark.slow
def test_a_run_in_which_every_worker_failed_is_an_error(start):
    target = "topology.worker._target_=tests.broken.FailsAtRound"
    run = start("budget.updates=100", target, "+topology.worker.fails={1: 5, 2: 7}")
    output = run.wait()
    assert run.code == 1, output
    assert results.summary(run.folder)["ended"] == "error"


@pytest.mark.slow
def test_a_killed_run_leaves_what_it_had(start):
    run = start(*LONG)
    run.until(lambda: under_way(run) and len(run.rows("worker1/system_stats.csv")) >= 2)
    for process in run.processes():
        process.kill()
    run.wait()
    assert len(results.updates(run.folder)) > 50
    assert len(results.metrics(run.folder)) > 25
    assert json.loads((run.folder / "parameters.json").read_text())["config"]["workers"] == 2
    assert not list(run.folder.glob("**/*.tmp"))


@pytest.mark.slow
def test_a_diverged_run_is_a_result_and_not_an_exception(start):
    run = start("optimizer.lr=1e20", "budget.updates=500", "evaluate.every=0", "objective=updates")
    output = run.wait()
    assert run.code == 0, output
    summary = results.summary(run.folder)
    assert summary["ended"] == "diverged" and summary["nonfinite"] == 1
