"""``role=all`` of a star: every node as a process on this machine. Those that die are started again."""

import logging
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socket

from asgd.engines import processes
from asgd.engines.local import ENDING_SECONDS, HURRY_SECONDS, LAST_SECONDS, child, ending
from asgd.engines.star import roles
from asgd.job import Job, cores

log = logging.getLogger(__name__)


def run(job: Job, folder: Path, listener: socket) -> None:
    """Start the nodes and stay until the last one has gone. RuntimeError when the server did not end as it should."""
    config = job.config | {"engine": job.config["engine"] | {"port": listener.getsockname()[1]}}
    count = cores() if job.auto else job.workers
    log.info("starting the server and %d workers", count)
    nodes = Nodes(config, folder, listener, count, job.engine.restarts)
    with processes.catching(nodes.interrupt):
        try:
            nodes.start_all()
            nodes.watch()
        finally:
            nodes.stop()
            listener.close()
    if nodes.ps.exitcode and nodes.deadline:
        raise KeyboardInterrupt
    if nodes.ps.exitcode:
        raise RuntimeError(f"the parameter server {ending(nodes.ps.exitcode)}; see {folder / 'run.log'}")


class Nodes:
    """The processes of a run; each may be started again ``restarts`` times. ``interrupt`` asks the server to end it."""

    def __init__(self, config: dict, folder: Path, listener: socket, count: int, restarts: int):
        self.config, self.folder, self.listener, self.context = config, folder, listener, processes.context()
        self.count, self.left = (
            count,
            Counter(dict.fromkeys(range(count + 1), restarts)),
        )  # starts of each; 0 is the server
        self.ps, self.control = None, None
        self.workers: dict[int, object] = {}
        self.deadline: float | None = None

    def start_all(self) -> None:
        self._start_server(self.config)
        for rank in range(1, self.count + 1):
            self.workers[rank] = self._start(f"worker{rank}", _worker, self.config, rank)

    def _start_server(self, config: dict) -> None:
        """The listening socket stays with this process, so the port is the same for each life of the server."""
        self.control, end = self.context.Pipe()
        self.ps = self._start("ps", _ps, config, self.listener, end)

    def _start(self, name: str, target, config: dict, *arguments):
        process = self.context.Process(target=child, name=name, args=(target, config, self.folder, *arguments))
        process.start()
        return process

    def interrupt(self) -> None:
        if self.deadline is None:
            self.deadline = time.monotonic() + HURRY_SECONDS
            if self.ps:
                self.ps.terminate()

    def watch(self) -> None:
        """Until the server has ended for good."""
        if self.deadline:  # interrupted while the nodes were starting
            self.ps.terminate()
        while (self.ps.is_alive() or self._revived()) and (self.deadline is None or time.monotonic() < self.deadline):
            wait([each.sentinel for each in self._alive()], timeout=0.25)
            for rank, process in list(self.workers.items()):
                if process.exitcode:
                    self._lost(rank, process)

    def _revived(self) -> bool:
        """Start the server again if something killed it; what it ended of by itself would end it again."""
        if self.deadline or not self.ps.exitcode or self.ps.exitcode > 0:
            return False
        how = ending(self.ps.exitcode)
        if not self.left[0] or not list((self.folder / "checkpoints").glob("*.pt")):
            log.error("the server %s, and %s", how, "that too often" if not self.left[0] else "left no checkpoint")
            return False
        self.left[0] -= 1
        log.error("the server %s; it goes on from its last checkpoint", how)
        self._start_server(self.config | {"resume": str(self.folder)})
        return True

    def _lost(self, rank: int, process) -> None:
        """Tell the server of a worker that died, and start that again under its old name."""
        del self.workers[rank]
        own = self.folder / "stats" / process.name / "worker.log"
        with suppress(OSError):  # the server has gone as well
            self.control.send((rank, f"its process {ending(process.exitcode)}; see {own}"))
        again = self.left[rank] and self.ps.is_alive() and not self.deadline
        if again and self.config["engine"]["on_worker_failure"] == "continue":
            self.left[rank] -= 1
            self.workers[rank] = self._start(process.name, _worker, self.config, rank)

    def _alive(self) -> list:
        return [node for node in (self.ps, *self.workers.values()) if node and node.is_alive()]

    def stop(self) -> None:
        """Nobody stays: who does not end in time is killed."""
        deadline = time.monotonic() + (LAST_SECONDS if self.deadline else ENDING_SECONDS)
        while self._alive() and self.ps not in self._alive() and time.monotonic() < deadline:
            wait([each.sentinel for each in self._alive()], timeout=0.1)
        for node in self._alive():
            node.kill()
            node.join()


def _ps(job: Job, folder: Path, listener: socket, control: Connection) -> None:
    roles.serve(job, folder, listener, control)


def _worker(job: Job, folder: Path, rank: int) -> None:
    roles.work(job, rank, folder)
