"""What waits for a server that stands still waits with the workers: its memory is bounded."""

import signal
import time

import psutil
import pytest

from tests.conftest import free_port
from tests.sessions import endless, sessions

WORKERS, SIZE = 64, 500_000
UPDATE = 4 * SIZE  # bytes
SLACK = 64e6  # of the allocator and of Python


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_64_workers_that_push_at_a_stopped_server_cost_it_one_update_each(start):
    port = free_port()
    run = start("role=ps", f"engine.port={port}", *endless(WORKERS, SIZE))
    server = psutil.Process(run.process.pid)
    with sessions(port, WORKERS, SIZE) as running:
        run.until(lambda: min(running.pushed) >= 5, 120)
        before, largest = server.memory_info().rss, 0
        for _ in range(3):
            server.send_signal(signal.SIGSTOP)
            stood = stands(running)
            server.send_signal(signal.SIGCONT)
            while min(running.pushed) < max(stood) + 3:
                largest = max(largest, server.memory_info().rss)
                time.sleep(0.01)
        running.ended.set()
    assert largest - before < WORKERS * UPDATE + SLACK, f"{largest - before:,} bytes more"


def stands(running) -> list[int]:
    """The answered updates of each, once nobody is answered any more."""
    while True:
        before = list(running.pushed)
        time.sleep(2)
        if before == running.pushed:
            return before
