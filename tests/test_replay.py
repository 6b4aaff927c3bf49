"""Replay: the recorded order of arrival of any run leads to equal parameters (oracle D5), or it is said where not."""

import json
import os
import signal
import threading
import time

import pytest
import torch

from asgd import results
from asgd.engines.replay import Replay
from asgd.run import run as command_line_run
from tests.conftest import FAST
from tests.runs import BRIEF, finished, parameters, record, replayed, run
from tests.scripted import TOPOLOGIES, a_job

MLP = ("model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.batch_size=8")
LOCAL = """local_sgd diloco async_local_sgd async_local_nesterov easgd eamsgd fedbuff post_local_sgd fedasync
    fedasync_constant fedasync_hinge""".split()
FEW = {topology: ("topology.steps=3",) for topology in LOCAL}
UNEVEN = ("workers=3", "timing=none", "timing.compute=[1e-3,2e-3,2e-2]")


def agrees(source, folder, *options: str) -> dict:
    """Replay a run: the same rows, and the same parameters bit for bit."""
    found = whole(source, folder, *options)
    assert record(folder) == record(source) and found["first_rounding"] is None
    assert found["equal"] and found["largest_difference"] == 0 and torch.equal(parameters(folder), parameters(source))
    return found


def whole(source, folder, *options: str) -> dict:
    """A replay to the end of the record. Any signal to this process would end it before, and without an error."""
    found = replayed(source, folder, *options)
    assert found["events"] == found["of_events"] == len(results.updates(source)), "the replay was interrupted"
    return found


def agrees_but_for_who_waited(source, folder) -> None:
    """Who was told by hand to stop waits a little longer in the replay, which sees it only when somebody leaves."""
    found = whole(source, folder)
    rows, theirs = (results.updates(each).drop(columns=["waiting", "apply_s"]) for each in (folder, source))
    assert rows.equals(theirs) and torch.equal(parameters(folder), parameters(source))
    assert found["equal"] or not results.summary(source)["updates"]  # on a slow machine there may be none in time


ALIKE = """async_local_nesterov dana_dc dc_asgd_a delay_adaptive delay_cutoff eamsgd fedasync_constant fedasync_hinge
    k_sync multi_asgd nag_asgd ringmaster_ignore softsync staleness_aware async_local_sgd backup_interrupted dana_slim
    fedasync gap_aware diloco post_local_sgd krum multi_krum trimmed_mean""".split()  # to others
CASES = [
    pytest.param(engine, each, marks=[pytest.mark.slow] * (each in ALIKE))
    for engine in ("threads", "virtual")
    for each in TOPOLOGIES
]


@pytest.mark.parametrize(("engine", "topology"), CASES)
def test_D5_the_replay_of_every_topology_is_equal_bit_for_bit(tmp_path, engine, topology):
    options = (f"engine={engine}", f"topology={topology}", "workers=3", "budget.updates=40", *FEW.get(topology, ()))
    agrees(run(tmp_path / "run", *options), tmp_path / "replay", "engine.gradients=single")


@pytest.mark.parametrize("topology", ["async", "sync", "ringmaster", "easgd"])
def test_D5_real_gradients_are_replayed_bit_for_bit(tmp_path, topology):
    options = ("engine=threads", f"topology={topology}", "workers=3", "schedule=cosine", "optimizer.momentum=0.5")
    agrees(run(tmp_path / "run", *options, "budget.updates=100", problem=MLP), tmp_path / "replay")


@pytest.mark.parametrize("at_once", [2, 64])
def test_stacked_gradients_differ_by_rounding_and_that_is_said(tmp_path, at_once):
    options = ("engine=virtual", "timing=square_root", "workers=8", "budget.updates=60", "engine.gradients=single")
    source = run(tmp_path / "run", *options, problem=MLP)
    found = replayed(source, tmp_path / "replay", "engine.gradients=stacked", f"engine.at_once={at_once}")
    torch.testing.assert_close(parameters(tmp_path / "replay"), parameters(source), rtol=1e-4, atol=1e-6)
    assert found["events"] == len(results.updates(source)) and found["largest_difference"] < 1e-5


@pytest.mark.parametrize("engine", ["threads", "virtual"])
def test_a_run_without_a_model_is_replayed(tmp_path, engine):
    problem = ("model=none", "dataset=digits", "dataset.batch_size=100")  # the last batch of an epoch is smaller
    source = run(tmp_path / "run", f"engine={engine}", "workers=3", "budget.updates=60", problem=problem)
    found = replayed(source, tmp_path / "replay")
    assert record(tmp_path / "replay") == record(source) and found["compared_versions"] == []


def test_the_replay_of_a_replay_is_a_replay(tmp_path):
    first = run(tmp_path / "run", "engine=threads", "workers=3", "topology=k_async", "budget.updates=40")
    agrees(first, tmp_path / "replay")
    agrees(tmp_path / "replay", tmp_path / "again")


def test_without_a_checkpoint_the_order_is_compared_and_that_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    source = run(tmp_path / "run", "engine=virtual", "budget.updates=20", "checkpoint.every=0")
    found = replayed(source, tmp_path / "replay")
    assert (found["equal"], found["largest_difference"], found["compared_versions"]) == (None, None, [])
    assert "22 events as recorded; the source has no checkpoint to compare parameters with" in caplog.text


# However it ended


@pytest.mark.parametrize("topology", ["async", "sync", "k_async", "ssp", "local_sgd"])
def test_a_run_that_was_out_of_time_is_replayed(tmp_path, topology):
    source = run(tmp_path / "run", "engine=threads", f"topology={topology}", *UNEVEN, "budget.seconds=0.2")
    agrees_but_for_who_waited(source, tmp_path / "replay")


def interrupt(folder, rows: int) -> None:
    """Ctrl-C for this process, as soon as the run in ``folder`` has recorded so many rows."""

    def watch():
        path, deadline = folder / "stats/ps/updates.csv", time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < rows:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize(
    ("engine", "topology"),
    [("threads", "async"), ("threads", "sync"), ("threads", "ssp"), ("threads", "rennala"), ("virtual", "k_async")],
)
def test_an_interrupted_run_is_replayed_and_so_is_what_becomes_of_it(tmp_path, engine, topology):
    options = (f"engine={engine}", f"topology={topology}", *UNEVEN)
    interrupt(tmp_path / "run", rows=50)
    source = run(tmp_path / "run", *options, "budget.seconds=1e6")
    assert results.summary(source)["ended"] == "interrupted"
    agrees_but_for_who_waited(source, tmp_path / "replay")
    assert results.summary(tmp_path / "replay")["ended"] == "interrupted"
    updates = results.summary(source)["updates"] + 20
    finished(source, a_job(f"resume={source}", *options, f"budget.updates={updates}", limits=BRIEF))
    agrees_but_for_who_waited(source, tmp_path / "longer")


@pytest.mark.parametrize("engine", ["threads", "virtual"])
@pytest.mark.parametrize("topology", ["sync", "k_async", "dana_slim", "ssp_lazy"])
def test_a_finished_run_with_a_larger_budget_is_replayed(tmp_path, engine, topology):
    options = (f"engine={engine}", f"topology={topology}", "workers=3", *FEW.get(topology, ()))
    source = run(tmp_path / "run", *options, "budget.updates=25")
    finished(source, a_job(f"resume={source}", *options, "budget.updates=50", limits=BRIEF))
    assert len(results.updates(source).query("event == 'join'")) == 6
    agrees_but_for_who_waited(source, tmp_path / "replay")


def ending(source, folder) -> str:
    """How the summary of a replay from the command line says that it ended; the command itself must succeed."""
    words = ["engine=replay", f"engine.source={source}"]
    folder.mkdir()
    command_line_run(a_job(*words, limits=()).config, folder, words)
    return results.summary(folder)["ended"]


@pytest.mark.parametrize("ended", ["budget", "interrupted", "diverged", "error", None])
def test_a_replay_ends_as_its_source_did(tmp_path, ended):
    source = run(tmp_path / "run", "engine=virtual", "budget.updates=null", "budget.seconds=20")
    path = source / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"ended": ended})) if ended else path.unlink()  # without: it was killed
    assert ending(source, tmp_path / "replay") == (ended or "interrupted")


def test_an_interrupted_replay_says_so_and_how_far_it_came(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    source = run(tmp_path / "run", "engine=virtual", "budget.updates=30")
    repeat = Replay.repeat

    def repeat_and_interrupt(replay, event):
        repeat(replay, event)
        if replay.tape.at == 17:  # two joins and 16 pushes
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Replay, "repeat", repeat_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        ending(source, tmp_path / "replay")
    found = json.loads((tmp_path / "replay/replay.json").read_text())
    assert (found["events"], found["of_events"]) == (18, 32)
    assert record(source).startswith(record(tmp_path / "replay")) and len(results.updates(tmp_path / "replay")) == 18
    assert results.summary(tmp_path / "replay")["ended"] == "interrupted"
    assert "18 events as recorded of 32, then it was stopped" in caplog.text


@pytest.mark.parametrize(("nonfinite", "number"), [("stop", 1), ("skip", 100)])
def test_a_diverged_run_is_replayed(tmp_path, nonfinite, number):
    options = ("engine=virtual", "workers=3", "budget.updates=500", "optimizer.lr=1e30", f"nonfinite={nonfinite}")
    agrees(run(tmp_path / "run", *options, problem=MLP), tmp_path / "replay")
    summary = results.summary(tmp_path / "replay")
    assert summary["ended"] == "diverged" and summary["nonfinite"] == number


# Processes


def replays_on_the_command_line(start, folder, events: int = 60) -> None:
    again = start("engine=replay", f"engine.source={folder}", name="replay")
    output = again.wait()
    assert again.code == 0 and "parameters equal bit for bit" in output, output
    assert record(again.folder) == record(folder) and len(results.updates(folder)) >= events


@pytest.mark.slow
def test_D5_a_killed_worker_is_replayed(start):
    run = start("budget.epochs=null", "budget.updates=60", "evaluate.every=0", "model=mlp", *UNEVEN, "topology=sync")
    run.until(lambda: len(run.rows("ps/updates.csv")) > 20)
    run.node("worker2").kill()
    assert "worker 2 failed" in run.wait() and run.code == 0, run.output
    replays_on_the_command_line(start, run.folder)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["async", "sync", "ringmaster_ignore", "easgd", "dana_zero"])
def test_D5_processes_are_replayed(start, topology):
    run = start(*FAST, "model=mlp", f"topology={topology}", "workers=3", *FEW.get(topology, ()))
    assert run.wait() and run.code == 0, run.output
    replays_on_the_command_line(start, run.folder)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["async", "sync"])
def test_D5_a_run_that_was_killed_and_resumed_is_replayed(start, topology):
    options = ("budget.epochs=null", "budget.updates=200", "checkpoint.every=50", "evaluate.every=0", "model=mlp")
    run = start(*options, *UNEVEN, f"topology={topology}")
    run.until(lambda: list(run.folder.glob("checkpoints/*50.pt")) or list(run.folder.glob("checkpoints/*100.pt")))
    for process in run.processes():
        process.kill()
    run.wait()
    again = start(f"resume={run.folder}")
    assert "resumed at version" in again.wait() and again.code == 0, again.output
    replays_on_the_command_line(start, run.folder)


@pytest.mark.slow
def test_a_killed_run_is_replayed_as_far_as_it_came(start):
    run = start("budget.epochs=null", "budget.seconds=100", "checkpoint.every=20", "model=mlp", *UNEVEN)
    run.until(lambda: list(run.folder.glob("checkpoints/*40.pt")))
    for process in run.processes():
        process.kill()
    run.wait()
    assert not (run.folder / "summary.json").exists()
    replays_on_the_command_line(start, run.folder, events=40)
