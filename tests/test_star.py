"""``engine=zmq``: workers and servers that die and come back, and workers that come and go."""

import signal

import pytest

from asgd import results
from tests.conftest import free_port
from tests.runs import pushes, replayed

STAR = ["engine=zmq", "model=mlp", "model.hidden=[16]", "timing=none", "timing.compute=1e-2", "evaluate.every=0"]
UPDATES = ["budget.epochs=null", "budget.updates=300", "checkpoint.every=20"]


def every_round_once(folder) -> dict[int, int]:
    """The rounds of each worker, all of which the server has applied once and in order."""
    table = pushes(folder)
    assert (table.applied == 1).sum() == results.summary(folder)["applied"]
    for worker, rounds in table.groupby("worker")["round"]:
        assert list(rounds) == list(range(len(rounds))), f"worker {worker}"
    return dict(table.groupby("worker").size())


def events(folder, worker: int) -> list[tuple[str, float]]:
    """The comings and goings of a worker, each with its round."""
    table = results.updates(folder)
    table = table[(table.worker == worker) & table.event.isin(("join", "leave"))]
    return list(zip(table.event, table["round"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["sync", "ssp"])
def test_a_worker_that_dies_comes_back_under_its_name(start, tmp_path, topology):
    killed = "topology.worker._target_=tests.broken.KilledOnce", "+topology.worker.fails={2: 40}"
    when = f"+topology.worker.marker={tmp_path}/killed", "+topology.worker.seed_of_death=0"
    run = start(*STAR, *UPDATES, "workers=3", f"topology={topology}", *killed, *when)
    output = run.wait()
    assert run.code == 0, output
    assert "worker 2 is gone: its process was killed by SIGKILL" in output
    every_round_once(run.folder)
    (joined, first), (left, at), (again, second), *_ = events(run.folder, 2)
    assert (joined, first, left, at, again, second) == ("join", 0, "leave", 40, "join", 40)
    assert results.summary(run.folder)["failed_workers"] == 1
    assert replayed(run.folder, tmp_path / "replay")["equal"]


@pytest.mark.parametrize("durability", ["update", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_a_server_that_is_killed_goes_on(start, tmp_path, durability):
    run = start(*STAR, *UPDATES, f"engine.durability={durability}")
    run.until(lambda: len(run.rows("ps/updates.csv")) > 110)
    run.node("ps").kill()
    output = run.wait()
    assert run.code == 0, output
    assert "the server was killed by SIGKILL; it goes on from its last checkpoint" in output
    assert sum(every_round_once(run.folder).values()) >= 300
    assert len(results.metrics(run.folder)) == len(pushes(run.folder))
    summary = results.summary(run.folder)
    assert summary["ended"] == "budget" and summary["updates"] == 300 and summary["failed_workers"] == 0
    if durability == "checkpoint":
        assert replayed(run.folder, tmp_path / "replay")["equal"]


@pytest.mark.slow
def test_a_server_that_dies_too_often_ends_the_run(start):
    run = start(*STAR, *UPDATES, "engine.restarts=0")
    run.until(lambda: len(run.rows("ps/updates.csv")) > 30)
    run.processes()
    run.node("ps").kill()
    output = run.wait()
    assert run.code == 1 and "was killed by SIGKILL" in output
    assert run.gone(5) == []


@pytest.mark.slow
def test_workers_come_and_go(start):
    options = [
        *STAR,
        "budget.epochs=null",
        "budget.seconds=100",
        "workers=auto",
        f"engine.port={free_port()}",
        "engine.payload=wire",
    ]
    server = start("role=ps", *options, name="ps")
    first = start("role=worker", *options, name="first")
    server.until(lambda: len(server.rows("ps/updates.csv")) > 10)
    second = start("role=worker", *options, name="second")
    server.until(lambda: any(",join,2," in row for row in server.rows("ps/updates.csv")))
    first.process.send_signal(signal.SIGINT)
    assert first.wait() and first.code == 130
    third = start("role=worker", *options, name="third")
    server.until(lambda: sum(",join,1," in row for row in server.rows("ps/updates.csv")) == 2)
    server.process.send_signal(signal.SIGINT)
    for command in (server, second, third):
        output = command.wait()
        assert command.code == (130 if command is server else 0), output
    rounds = every_round_once(server.folder)
    assert set(rounds) == {1, 2}
    (_, begin), (_, end), (_, again), *_ = events(server.folder, 1)
    assert (begin, end) == (0, again)
    for worker in (1, 2):  # what the nodes have written in folders of their own
        table = server.folder / f"stats/worker{worker}/training_metrics.csv"
        assert len(table.read_text().splitlines()) in (
            rounds[worker],
            rounds[worker] + 1,
        )  # and the header
    assert results.summary(server.folder)["failed_workers"] == 0


@pytest.mark.slow
def test_a_second_worker_of_a_rank_waits_and_another_model_is_refused(start):
    options = [*STAR, "budget.epochs=null", "budget.seconds=60", "workers=1", f"engine.port={free_port()}"]
    server = start("role=ps", *options, name="ps")
    worker = start("role=worker", "rank=1", *options, name="worker")
    server.until(lambda: len(server.rows("ps/updates.csv")) > 10)
    same = start("role=worker", "rank=1", *options, "engine.join_timeout=1", name="same")
    other = start("role=worker", "rank=1", *options, "model.hidden=[17]", "engine.join_timeout=1", name="other")
    assert "the run already has worker1" in same.wait() and same.code == 1
    assert "the run already has worker1" in other.wait() and other.code == 1
    worker.process.send_signal(signal.SIGTERM)
    worker.wait()
    different = start("role=worker", "rank=1", *options, "model.hidden=[17]", name="different")
    assert "model.hidden: server [16], here [17]" in different.wait() and different.code == 2
    back = start("role=worker", "rank=1", *options, name="back")
    before = len(server.rows("ps/updates.csv"))
    server.until(lambda: len(server.rows("ps/updates.csv")) > before + 10)
    server.process.send_signal(signal.SIGINT)
    server.wait()
    assert results.summary(server.folder)["ended"] == "interrupted"
    assert back.wait() and back.code == 0


@pytest.mark.slow
def test_a_new_server_fences_the_old_one(start):
    options = [*STAR, "budget.epochs=null", "budget.seconds=120", "checkpoint.every=10", "workers=1"]
    port = free_port()
    old = start("role=ps", *options, f"engine.port={port}", name="run")
    worker = start("role=worker", "rank=1", *options, f"engine.port={port}", name="worker")
    old.until(lambda: len(old.rows("ps/updates.csv")) > 30)
    old.process.send_signal(signal.SIGSTOP)
    new = start("role=ps", f"resume={old.folder}", f"engine.port={free_port()}")
    new.until(lambda: (old.folder / "stats/ps/.lives").read_text().strip() == "2")
    old.process.send_signal(signal.SIGCONT)
    output = old.wait()
    assert old.code == 1 and "another server has taken over the run" in output
    new.process.send_signal(signal.SIGINT)
    new.wait()
    worker.process.kill()
