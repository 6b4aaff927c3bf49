"""Networks that break and heal, and hosts that vanish without a word: server and workers in namespaces of their own."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos import ledger
from tests.chaos.faults import LEASE, WORKERS, Plan
from tests.conftest import free_port

PLAN = Plan(1, "all", "async", "checkpoint", "wire", 1 << 10)
SERVER, CLIENTS = "10.213.77.1", "10.213.77.2"
SOON = 10.0  # seconds from a healed network to the next update; 2 where the machine has nothing else to do

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts():
    """The names of two namespaces with a cable between them."""
    here, there = (f"asgd-{os.getpid()}-{each}" for each in "sw")
    ip("netns", "add", here), ip("netns", "add", there)
    try:
        ip("link", "add", "cable", "netns", here, "type", "veth", "peer", "name", "cable", "netns", there)
        for name, address in ((here, SERVER), (there, CLIENTS)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up"), ip("-n", name, "link", "set", "cable", "up")
        yield here, there
    finally:
        ip("netns", "del", here), ip("netns", "del", there)


@pytest.fixture
def hosts():
    if os.geteuid() or not shutil.which("ip") or subprocess.run(["unshare", "-n", "true"]).returncode:
        pytest.skip("namespaces need root and iproute2")
    with two_hosts() as names:
        yield names


def under_way(start, hosts) -> tuple:
    """The server's command and those of the workers, once all have pushed."""
    port = free_port()
    options = [*PLAN.options(), f"engine.host={SERVER}", f"engine.port={port}", "engine.trusted_network=true"]
    on = [("ip", "netns", "exec", host) for host in hosts]
    server = start("role=ps", *options, name="run", prefix=on[0])
    workers = [
        start("role=worker", f"rank={rank}", *options, name=f"worker{rank}", prefix=on[1])
        for rank in range(1, WORKERS + 1)
    ]
    server.until(lambda: all(pushed(server, rank) > 10 for rank in range(1, WORKERS + 1)), 120)
    return server, workers


def pushed(server, rank: int) -> int:
    return sum(f",push,{rank}," in row for row in server.rows("ps/updates.csv"))


def gone(server) -> int:
    return sum(",leave," in row for row in server.rows("ps/updates.csv"))


def sockets(server) -> int:
    """How many the server's process has open."""
    count = 0
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed by now
            count += os.readlink(link).startswith("socket:")
    return count


@pytest.mark.parametrize("seconds", [10.0, 40.0])
def test_training_goes_on_when_a_partition_heals(start, tmp_path, hosts, seconds):
    server, workers = under_way(start, hosts)
    cut = time.monotonic()
    ip("-n", hosts[1], "link", "set", "cable", "down")
    server.until(lambda: gone(server) == WORKERS)
    time.sleep(max(0.0, cut + seconds - time.monotonic()))
    before = [pushed(server, rank) for rank in range(1, WORKERS + 1)]
    ip("-n", hosts[1], "link", "set", "cable", "up")
    healed = time.monotonic()
    server.until(lambda: sum(pushed(server, rank) for rank in range(1, WORKERS + 1)) > sum(before), SOON)
    first = time.monotonic() - healed
    server.until(lambda: all(pushed(server, rank) > before[rank - 1] for rank in range(1, WORKERS + 1)), SOON)
    print(
        f"healed after {seconds:g} s: the first update after {first:.2f} s, all after {time.monotonic() - healed:.2f}"
    )
    server.process.send_signal(signal.SIGINT)
    for each, code in ((server, 130), *((worker, 0) for worker in workers)):
        output = each.wait()
        assert each.code == code, output
    ledger.check(tmp_path, PLAN)


def test_hosts_that_vanish_without_a_word_are_forgotten(start, tmp_path, hosts):
    server, workers = under_way(start, hosts)
    descriptors = sockets(server)
    ip("-n", hosts[1], "link", "set", "cable", "down")
    for worker in workers:
        worker.process.kill()
        worker.wait()
    server.until(lambda: gone(server) == WORKERS, LEASE + SOON)
    server.until(lambda: sockets(server) == descriptors - WORKERS, LEASE + SOON)
    server.process.send_signal(signal.SIGINT)
    assert f"nothing was heard of it for {LEASE:g} s" in server.wait()
    ledger.check(tmp_path, PLAN)
