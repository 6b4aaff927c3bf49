"""``role=all`` over RPC: every node of a run as a process on this machine."""

import logging
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket

from asgd.engines import following, leading, roles
from asgd.engines.nodes import Processes
from asgd.job import Job, servers

log = logging.getLogger(__name__)


def run(job: Job, folder: Path, listener: socket) -> None:
    """Start the nodes and stay until the last one has gone. RuntimeError when the server did not end as it should."""
    config = job.config | {"engine": job.config["engine"] | {"port": listener.getsockname()[1]}}
    count = servers(config)
    log.info("starting %s and %d workers", "the server" if count == 1 else f"{count} servers", job.workers)
    LocalNodes(config, folder, listener).run()


class LocalNodes(Processes):
    """Who dies stays away; the first server is told, in case it has not noticed."""

    def __init__(self, config: dict, folder: Path, listener: socket):
        super().__init__(config, folder, listener=listener)
        self.members: dict[tuple[str, int], object] = {}  # what tells the first server of its end, and its rank
        self.evaluator, self.told = None, set()

    def start_all(self) -> None:
        config = self.config
        self.ps = self.start_ps(_ps, config)
        for rank in range(2, servers(config) + 1):
            self.members["server_lost", rank] = self.start(f"ps{rank}", _server, config, rank)
        for rank in range(1, config["workers"] + 1):
            self.members["failed", rank] = self.start(f"worker{rank}", _worker, config, rank)
        if config["evaluate"]["every"] > 0:
            self.evaluator = self.start("evaluator", _evaluator, config)
        self.listener.close()

    def others(self) -> list:
        return [self.evaluator, *self.members.values()]

    def look_after(self) -> None:
        for member, process in self.members.items():
            if process.exitcode and member not in self.told:
                self.told.add(member)
                self.tell(*member, f"its process {self.how(process)}; see {self._log(process.name)}")

    def _log(self, name: str) -> Path:
        own = self.folder / "stats" / name / "worker.log"
        return own if name.startswith("worker") else self.folder / "run.log"


def _ps(job: Job, folder: Path, listener: socket, control: Connection) -> None:
    leading.serve(job, folder, listener, control)


def _server(job: Job, folder: Path, rank: int) -> None:
    following.follow(job, rank, folder)


def _worker(job: Job, folder: Path, rank: int) -> None:
    roles.work(job, rank, folder)


def _evaluator(job: Job, folder: Path) -> None:
    roles.judge(job, folder)
