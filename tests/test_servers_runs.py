"""Whole runs on several server processes: the files of one server, and nothing left behind whatever dies."""

import json
import signal

import pandas as pd
import pytest

from asgd import checkpoints, results
from asgd.engines.parts import parts
from tests.conftest import free_port
from tests.runs import replayed
from tests.scripted import a_job
from tests.shards import write_set

BRIEF = ["model=mlp", "dataset.batch_size=32", "budget.epochs=null", "budget.updates=40", "evaluate.every=20"]
LONG = [*BRIEF[:3], "budget.seconds=120", "evaluate.every=50"]
MOMENTUM = ["optimizer.momentum=0.9", "optimizer.weight_decay=0.001"]


def ended(run) -> dict:
    output = run.wait()
    assert run.code == 0, output
    return results.summary(run.folder)


def under_way(run) -> bool:
    return len(run.rows("ps/updates.csv")) > 30


def assert_repeated(folder, to) -> None:
    """A replay, which knows of no servers, comes to the same parameters and the same evaluations."""
    found = replayed(folder, to)
    assert found["equal"] and max(found["compared_versions"]) == results.summary(folder)["updates"]
    columns = ["version", "samples", "loss", "accuracy"]
    pd.testing.assert_frame_equal(results.evaluation(folder)[columns], results.evaluation(to)[columns])


def assert_files_of_one_server(folder, servers: int) -> None:
    vector = a_job(*BRIEF, problem=(), limits=()).task("cpu").params
    found = parts(vector, servers)
    for rank in range(2, servers + 1):
        facts = json.loads((folder / f"stats/ps{rank}/parameters.json").read_text())
        assert (facts["role"], facts["rank"]) == ("ps", rank)
        begin, size = facts["first_parameter"], facts["parameters"]
        assert slice(begin, begin + size) == found[rank - 1]
        assert len((folder / f"stats/ps{rank}/system_stats.csv").read_text().splitlines()) >= 2
    pushes = results.updates(folder).query("event == 'push'")
    assert set(pushes.bytes) == {vector.nbytes}
    assert checkpoints.load(folder)["server"]["parameters"]["params"].shape == vector.shape
    assert set(results.system_stats(folder).node) >= {"ps", "ps2", "worker1", "worker2"}


def test_a_run_on_two_servers_has_the_files_of_one_and_is_replayed(start, tmp_path):
    run = start(*BRIEF, *MOMENTUM, "engine.servers=2")
    summary = ended(run)
    assert (summary["ended"], summary["updates"]) == ("budget", 40)
    assert_files_of_one_server(run.folder, 2)
    assert_repeated(run.folder, tmp_path / "replay")


@pytest.mark.slow
def test_a_run_on_two_servers_goes_on_with_three_and_with_one(start, tmp_path):
    run = start(*BRIEF, *MOMENTUM, "engine.servers=2")
    ended(run)
    for updates, servers in ((60, 3), (80, 1)):
        ended(start(f"resume={run.folder}", f"budget.updates={updates}", f"engine.servers={servers}"))
    assert results.summary(run.folder)["updates"] == 80
    assert_files_of_one_server(run.folder, 3)
    assert_repeated(run.folder, tmp_path / "replay")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["engine.payload=wire", "engine.servers=3", *MOMENTUM],
        ["engine.servers=2", "topology=k_batch_async", "topology.count=3", "optimizer=adamw"],
        ["engine.servers=2", "topology=sync", "workers=3"],
        ["engine.servers=2", "topology=fedbuff", "topology.count=2", "topology.steps=2"],
        ["engine.servers=2", "topology=dana_zero"],
        ["engine.servers=2", "topology=easgd", "topology.steps=2"],
    ],
    ids=" ".join,
)
def test_methods_on_several_servers_are_replayed(start, tmp_path, options):
    run = start(*BRIEF, *options)
    assert ended(run)["ended"] == "budget"
    assert_repeated(run.folder, tmp_path / "replay")


@pytest.mark.slow
def test_buffers_are_the_first_servers(start, tmp_path):
    options = ["model._target_=tests.test_batchnorm.network", "~model.channels", "dataset.batch_size=32"]
    run = start(*options, "budget.epochs=6", "evaluate.every=100", "optimizer.lr=0.05", "engine.servers=2")
    assert ended(run)["final_accuracy"] > 0.8
    assert checkpoints.load(run.folder)["server"]["buffers"]["value"].numel() > 0
    assert_repeated(run.folder, tmp_path / "replay")


@pytest.mark.slow
def test_leases_are_the_first_servers(start, tmp_path):
    train, (val,) = write_set(tmp_path, "train", [5, 1, 4, 7, 2, 6, 3]), write_set(tmp_path, "val", [4])
    places = (f"dataset.url=[{','.join(train)}]", f"dataset.val_url={val}")
    shape = ("dataset.size=4", "dataset.augment.pad=1", "dataset.batch_size=2", "dataset.shuffle=3")
    options = ("model=linear", "dataset=cifar10", *places, *shape, "dataset.assignment=leased", "workers=3")
    run = start(*options, "engine.servers=2", "budget.epochs=null", "budget.updates=40", "evaluate.every=20")
    assert ended(run)["updates"] == 40 and run.rows("ps/leases.csv")
    assert_repeated(run.folder, tmp_path / "replay")


@pytest.mark.slow
def test_a_second_server_that_is_killed_ends_the_run(start):
    run = start(*LONG, "engine.servers=2", "topology=sync")
    run.until(lambda: under_way(run))
    run.processes()
    run.node("ps2").kill()
    assert run.gone(10) == []
    output = run.wait()
    assert run.code == 1 and "the server ps2 failed" in output and "Traceback" not in output
    assert "worker 1 failed" not in output and "worker 2 failed" not in output
    summary = results.summary(run.folder)
    assert (summary["ended"], summary["failed_workers"]) == ("error", 0)


@pytest.mark.slow
def test_a_worker_that_is_killed_has_left_all_servers(start, tmp_path):
    run = start(*BRIEF[:3], "budget.updates=200", "workers=3", "topology=sync", "engine.servers=2")
    run.until(lambda: under_way(run))
    run.node("worker2").kill()
    summary = ended(run)
    assert (summary["updates"], summary["failed_workers"]) == (200, 1)
    assert_repeated(run.folder, tmp_path / "replay")


@pytest.mark.slow
def test_ctrl_c_ends_all_servers_within_5_seconds(start, tmp_path):
    run = start(*LONG, "engine.servers=2")
    run.until(lambda: under_way(run))
    run.processes()
    run.process.send_signal(signal.SIGINT)
    assert run.gone(5) == [] and run.process.wait() == 130
    assert results.summary(run.folder)["ended"] == "interrupted"
    assert replayed(run.folder, tmp_path / "replay")["equal"]


@pytest.mark.slow
def test_divergence_is_a_result_on_several_servers(start):
    run = start(*BRIEF, "optimizer.lr=1e20", "engine.servers=2", "objective=updates")
    summary = ended(run)
    assert (summary["ended"], summary["nonfinite"]) == ("diverged", 1)


@pytest.mark.slow
def test_servers_started_by_hand_in_any_order(start, tmp_path):
    options = [*BRIEF, "workers=2", f"engine.port={free_port()}", "engine.servers=2"]
    others = [start("role=worker", f"rank={k}", *options, name=f"w{k}") for k in (1, 2)]
    others.append(start("role=ps", "rank=2", *options, "budget.updates=7", name="ps2"))  # the first one's budget counts
    first = start("role=ps", *options, name="ps")
    assert ended(first)["updates"] == 40
    assert [(node.wait(10) and None) or node.code for node in others] == [0, 0, 0]
    assert_files_of_one_server(first.folder, 2)
    assert_repeated(first.folder, tmp_path / "replay")
    own = others[2].folder
    assert not (own / "summary.json").exists() and not (own / "parameters.json").exists()
    assert (own / "stats/ps2/system_stats.csv").read_text() == (first.folder / "stats/ps2/system_stats.csv").read_text()


@pytest.mark.slow
def test_a_server_that_does_not_come_is_named(start):
    options = [*BRIEF, "workers=1", f"engine.port={free_port()}", "engine.servers=3", "engine.join_timeout=4"]
    first = start("role=ps", *options)
    output = first.wait()
    assert first.code == 1 and "no servers ps2, ps3 within 4 s; start each with role=ps and its rank" in output
    assert results.summary(first.folder)["ended"] == "error" and "Traceback" not in output
