"""``role=all`` of a star: every node as a process on this machine. Those that die are started again."""

import logging
from abc import abstractmethod
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket

from asgd.engines.nodes import Nodes, Processes
from asgd.engines.star import roles
from asgd.job import Job
from asgd.machine import cores

log = logging.getLogger(__name__)


def run(job: Job, folder: Path, listener: socket) -> None:
    """Start the nodes here and stay until the last one has gone."""
    config = job.config | {"engine": job.config["engine"] | {"port": listener.getsockname()[1]}}
    count = cores() if job.auto else job.workers
    try:
        StarProcesses(config, folder, count, job.engine.restarts, listener=listener).run()
    finally:
        listener.close()


class StarNodes(Nodes):
    """The server and ``count`` workers; each may be started again ``restarts`` times."""

    def __init__(self, config: dict, folder: Path, count: int, restarts: int):
        super().__init__(config, folder)
        self.count, self.workers = count, {}
        self.left = Counter(dict.fromkeys(range(count + 1), restarts))  # starts of each; 0 is the server

    @abstractmethod
    def start_server(self, config: dict): ...

    @abstractmethod
    def start_worker(self, rank: int): ...

    @abstractmethod
    def tell(self, rank: int, reason: str) -> None:
        """Tell the server that a worker has died."""

    def start_all(self) -> None:
        log.info("starting the server and %d workers", self.count)
        self.ps = self.start_server(self.config)
        for rank in range(1, self.count + 1):
            self.workers[rank] = self.start_worker(rank)

    def others(self) -> list:
        return list(self.workers.values())

    def revived(self) -> bool:
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

    def look_after(self) -> None:
        for rank, node in list(self.workers.items()):
            if node.exitcode:
                self._lost(rank, node)

    def _lost(self, rank: int, node) -> None:
        """Tell the server of a worker that died, and start that again under its old name."""
        del self.workers[rank]
        self.tell(rank, f"its process {self.how(node)}; see {self.folder / 'stats' / node.name / 'worker.log'}")
        again = self.left[rank] and self.ps.is_alive() and not self.deadline
        if again and self.config["engine"]["on_worker_failure"] == "continue":
            self.left[rank] -= 1
            self.workers[rank] = self.start_worker(rank)


class StarProcesses(Processes, StarNodes):
    """On this machine. The listening socket stays with this process, so the port is that of each life of the server."""

    def start_server(self, config: dict):
        return self.start_ps(_ps, config)

    def start_worker(self, rank: int):
        return self.start(f"worker{rank}", _worker, self.config, rank)


def _ps(job: Job, folder: Path, listener: socket, control: Connection) -> None:
    roles.serve(job, folder, listener, control)


def _worker(job: Job, folder: Path, rank: int) -> None:
    roles.work(job, rank, folder)
