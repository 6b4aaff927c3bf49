"""However a run of ``engine=zmq`` ends: its processes are gone within 5 seconds, its port is free, its files stay."""

import signal
import socket

import psutil
import pytest

from asgd import results
from tests.conftest import free_port
from tests.test_faults import under_way

SOON = 10.0  # seconds; half of it where the machine has nothing else to do
STAR = ["engine=zmq", "budget.epochs=null", "budget.seconds=120", "evaluate.every=0", "checkpoint.every=50"]


def a_run(start, port: int, *options: str):
    run = start(*STAR, f"engine.port={port}", *options)
    run.until(lambda: under_way(run))
    named = [each.path for process in run.processes() for each in process.memory_maps() if "/dev/shm" in each.path]
    assert not named, "memory that has a name outlives who made it"
    return run


def nothing_is_left(run, port: int) -> None:
    assert run.gone(SOON) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen()
    assert not list(run.folder.glob("**/*.tmp"))


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_is_told_to_end(start, sign):
    run = a_run(start, port := free_port())
    run.process.send_signal(sign)
    nothing_is_left(run, port)
    summary, updates = results.summary(run.folder), results.updates(run.folder)
    assert summary["ended"] == "interrupted" and run.process.wait() == 130
    assert (updates.applied == 1).sum() == summary["applied"] == summary["updates"]


@pytest.mark.slow
def test_a_run_that_is_over(start):
    run = a_run(start, port := free_port(), "budget.seconds=8")
    output = run.wait()
    assert run.code == 0, output
    nothing_is_left(run, port)


@pytest.mark.parametrize("victim", ["command", "ps"])
@pytest.mark.slow
def test_a_run_of_which_somebody_is_killed(start, victim):
    run = a_run(start, port := free_port(), "engine.restarts=0")
    (psutil.Process(run.process.pid) if victim == "command" else run.node(victim)).kill()
    nothing_is_left(run, port)
    run.wait(5)
    assert run.code != 0


@pytest.mark.slow
def test_nodes_by_hand_whose_server_is_told_to_end(start):
    port = free_port()
    options = [*STAR, "workers=2", f"engine.port={port}"]
    server = start("role=ps", *options, name="ps")
    workers = [start("role=worker", f"rank={rank}", *options, name=f"worker{rank}") for rank in (1, 2)]
    server.until(lambda: under_way(server))
    for each in (server, *workers):
        each.processes()
    server.process.send_signal(signal.SIGINT)
    for each in (server, *workers):
        nothing_is_left(each, port)
    assert [each.process.wait() for each in (server, *workers)] == [130, 0, 0]
