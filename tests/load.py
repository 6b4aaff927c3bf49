"""``python -m tests.load [--sessions 8 256]``: how fast one server of a star is, and how evenly it serves, with many.

The server is a process, the sessions live in one thread of this one; vectors travel by wire. Expect the rate to depend
little on the number of sessions, and nobody to be left behind.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import torch

from tests.conftest import Command, free_port
from tests.crowd import Crowd
from tests.sessions import endless


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    words.add_argument("--sessions", type=int, nargs="+", default=[8, 256])
    words.add_argument("--parameters", type=int, default=1_000_000)
    words.add_argument("--seconds", type=float, default=20.0)
    words.add_argument("--repeat", type=int, default=1, help="in turn, so that what else the machine does hits all")
    chosen = words.parse_args()
    for _ in range(chosen.repeat):
        for count in chosen.sessions:
            print(f"{count:4d} sessions: {measured(count, chosen.parameters, chosen.seconds)}", flush=True)


def measured(count: int, size: int, seconds: float) -> str:
    port, payload = free_port(), torch.full((size,), 1e-9)
    with tempfile.TemporaryDirectory() as place:
        server = Command(Path(place) / "run", "role=ps", f"engine.port={port}", *endless(count, size))
        crowd = Crowd(port, count, payload)
        try:
            crowd.run(lambda: min(crowd.pushed()) > 1)
            rates, busy = rates_over(seconds, crowd, psutil.Process(server.process.pid))
        finally:
            crowd.close()
            server.process.terminate()
            server.wait()
    slowest, median = min(rates), statistics.median(rates)
    return (
        f"{sum(rates):7.1f} updates/s, of a session: slowest {slowest:.2f}, median {median:.2f} "
        f"({slowest / median:.0%} of it), fastest {max(rates):.2f}; the server's process {busy:.0%} of a core"
    )


def rates_over(seconds: float, crowd: Crowd, server: psutil.Process) -> tuple[list[float], float]:
    """(updates per second of each session, share of a core that the server took)"""
    before, begun, spent = crowd.pushed(), time.monotonic(), sum(server.cpu_times()[:2])
    crowd.run(lambda: time.monotonic() - begun > seconds)
    passed = time.monotonic() - begun
    rates = [(now - then) / passed for now, then in zip(crowd.pushed(), before, strict=True)]
    return rates, (sum(server.cpu_times()[:2]) - spent) / passed


if __name__ == "__main__":
    main()
