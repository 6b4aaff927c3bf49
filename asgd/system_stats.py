"""``system_stats.csv``: what a node's process uses, once a second."""

import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from asgd.records import SYSTEM, Table

MB = 1e6


class SystemStats:
    """A thread that writes a row each ``period`` seconds until ``close``.

    ``cpu_percent`` (100 is one core), ``memory_percent`` of the machine's memory and ``memory_mb`` (resident, 10^6
    bytes) are this process's own; ``net_*_mb`` are the whole machine's traffic since the first row.
    """

    def __init__(self, folder: Path, clock: Callable[[], float], period: float = 1.0):
        self.table, self.clock, self.period = Table(folder / "system_stats.csv", SYSTEM), clock, period
        self.process, self.traffic = psutil.Process(), psutil.net_io_counters()
        self.process.cpu_percent()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="system-stats", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.wait(self.period):
            self._row()
        self._row()

    def _row(self) -> None:
        process, traffic = self.process, psutil.net_io_counters()
        sent = (traffic.bytes_sent - self.traffic.bytes_sent) / MB
        received = (traffic.bytes_recv - self.traffic.bytes_recv) / MB
        memory = process.memory_info().rss / MB
        self.table.row(self.clock(), process.cpu_percent(), process.memory_percent(), memory, sent, received)

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        self.table.close()
