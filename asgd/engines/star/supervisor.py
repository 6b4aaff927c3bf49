"""``role=all`` of a star: every node as a process on this machine. Those that die are started again."""

import logging
import time
from abc import ABC, abstractmethod
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
    """Start the nodes here and stay until the last one has gone."""
    config = job.config | {"engine": job.config["engine"] | {"port": listener.getsockname()[1]}}
    nodes = Processes(config, folder, cores() if job.auto else job.workers, job.engine.restarts, listener)
    try:
        supervise(nodes)
    finally:
        listener.close()


def supervise(nodes: "Nodes") -> None:
    """Until the last node has gone. RuntimeError when the server did not end as it should."""
    log.info("starting the server and %d workers", nodes.count)
    with processes.catching(nodes.interrupt):
        try:
            nodes.start_all()
            nodes.watch()
        finally:
            nodes.stop()
    if nodes.ps.exitcode and nodes.deadline:
        raise KeyboardInterrupt
    if nodes.ps.exitcode:
        raise RuntimeError(f"the parameter server {nodes.how(nodes.ps)}; see {nodes.folder / 'run.log'}")


class Nodes(ABC):
    """The nodes of a run; each may be started again ``restarts`` times. ``interrupt`` asks the server to end it.

    A node has a ``name``, an ``exitcode`` as processes have, and ``is_alive``, ``terminate``, ``kill`` and ``join``.
    """

    def __init__(self, config: dict, folder: Path, count: int, restarts: int):
        self.config, self.folder, self.count = config, folder, count
        self.left = Counter(dict.fromkeys(range(count + 1), restarts))  # starts of each; 0 is the server
        self.ps, self.workers = None, {}
        self.deadline: float | None = None

    # Where nodes live

    @abstractmethod
    def start_server(self, config: dict): ...

    @abstractmethod
    def start_worker(self, rank: int): ...

    @abstractmethod
    def tell_server(self, rank: int, reason: str) -> None:
        """That a worker has died."""

    @abstractmethod
    def wait(self, nodes: list, seconds: float) -> None:
        """Until one of them ends, for so long at most."""

    @abstractmethod
    def how(self, node) -> str:
        """How it ended, in words."""

    # What is done with them

    def start_all(self) -> None:
        self.ps = self.start_server(self.config)
        for rank in range(1, self.count + 1):
            self.workers[rank] = self.start_worker(rank)

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
            self.wait(self._alive(), 0.25)
            for rank, node in list(self.workers.items()):
                if node.exitcode:
                    self._lost(rank, node)

    def _revived(self) -> bool:
        """Start the server again if something killed it; what it ended of by itself would end it again."""
        if self.deadline or not self.ps.exitcode or self.ps.exitcode > 0:
            return False
        how = self.how(self.ps)
        if not self.left[0] or not list((self.folder / "checkpoints").glob("*.pt")):
            log.error("the server %s, and %s", how, "that too often" if not self.left[0] else "left no checkpoint")
            return False
        self.left[0] -= 1
        log.error("the server %s; it goes on from its last checkpoint", how)
        self.ps = self.start_server(self.config | {"resume": str(self.folder)})
        return True

    def _lost(self, rank: int, node) -> None:
        """Tell the server of a worker that died, and start that again under its old name."""
        del self.workers[rank]
        self.tell_server(rank, f"its process {self.how(node)}; see {self.folder / 'stats' / node.name / 'worker.log'}")
        again = self.left[rank] and self.ps.is_alive() and not self.deadline
        if again and self.config["engine"]["on_worker_failure"] == "continue":
            self.left[rank] -= 1
            self.workers[rank] = self.start_worker(rank)

    def _alive(self) -> list:
        return [node for node in (self.ps, *self.workers.values()) if node and node.is_alive()]

    def stop(self) -> None:
        """Nobody stays: who does not end in time is killed."""
        deadline = time.monotonic() + (LAST_SECONDS if self.deadline else ENDING_SECONDS)
        while self._alive() and self.ps not in self._alive() and time.monotonic() < deadline:
            self.wait(self._alive(), 0.1)
        for node in self._alive():
            node.kill()
            node.join()


class Processes(Nodes):
    """On this machine. The listening socket stays with this process, so the port is that of each life of the server."""

    def __init__(self, config: dict, folder: Path, count: int, restarts: int, listener: socket):
        super().__init__(config, folder, count, restarts)
        self.listener, self.context = listener, processes.context()

    def start_server(self, config: dict):
        self.control, end = self.context.Pipe()
        return self._start("ps", _ps, config, self.listener, end)

    def start_worker(self, rank: int):
        return self._start(f"worker{rank}", _worker, self.config, rank)

    def _start(self, name: str, target, config: dict, *arguments):
        process = self.context.Process(target=child, name=name, args=(target, config, self.folder, *arguments))
        process.start()
        return process

    def tell_server(self, rank: int, reason: str) -> None:
        with suppress(OSError):  # the server has gone as well
            self.control.send((rank, reason))

    def wait(self, nodes: list, seconds: float) -> None:
        wait([each.sentinel for each in nodes], seconds)

    def how(self, node) -> str:
        return ending(node.exitcode)


def _ps(job: Job, folder: Path, listener: socket, control: Connection) -> None:
    roles.serve(job, folder, listener, control)


def _worker(job: Job, folder: Path, rank: int) -> None:
    roles.work(job, rank, folder)
