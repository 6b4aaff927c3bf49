"""``role=all``: every node of a run as a process on this machine, watched by this one."""

import logging
import signal
import sys
import time
from contextlib import suppress
from multiprocessing import current_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socket

from asgd.display import Console
from asgd.engines import following, leading, processes, roles
from asgd.job import Job, servers

log = logging.getLogger(__name__)

ENDING_SECONDS = 5.0  # for the other nodes when the server has gone
HURRY_SECONDS = 4.0  # for the server after Ctrl-C
LAST_SECONDS = 0.5  # for the other nodes then


def run(job: Job, folder: Path, listener: socket) -> None:
    """Start the nodes and stay until the last one has gone. RuntimeError when the server did not end as it should."""
    config = job.config | {"engine": job.config["engine"] | {"port": listener.getsockname()[1]}}
    count = servers(config)
    log.info("starting %s and %d workers", "the server" if count == 1 else f"{count} servers", job.workers)
    nodes = Nodes(config, folder)
    with processes.catching(nodes.interrupt):
        try:
            nodes.start_all(listener, evaluator=config["evaluate"]["every"] > 0)
            listener.close()
            nodes.watch()
        finally:
            nodes.stop()
    if nodes.ps.exitcode and nodes.deadline:
        raise KeyboardInterrupt
    if nodes.ps.exitcode:
        raise RuntimeError(f"the parameter server {ending(nodes.ps.exitcode)}; see {folder / 'run.log'}")


class Nodes:
    """The processes of a run. ``interrupt`` asks the server to end it."""

    def __init__(self, config: dict, folder: Path):
        self.config, self.folder, self.context = config, folder, processes.context()
        self.control, self.control_end = self.context.Pipe()
        self.members: dict[tuple[str, int], object] = {}  # what tells the first server of its end, and its rank
        self.ps, self.evaluator, self.deadline = None, None, None

    def start_all(self, listener: socket, evaluator: bool) -> None:
        self.ps = self._start("ps", _ps, listener, self.control_end)
        for rank in range(2, servers(self.config) + 1):
            self.members["server_lost", rank] = self._start(f"ps{rank}", _server, rank)
        for rank in range(1, self.config["workers"] + 1):
            self.members["failed", rank] = self._start(f"worker{rank}", _worker, rank)
        if evaluator:
            self.evaluator = self._start("evaluator", _evaluator)

    def _start(self, name: str, target, *arguments):
        process = self.context.Process(target=child, name=name, args=(target, self.config, self.folder, *arguments))
        process.start()
        return process

    def interrupt(self) -> None:
        if self.deadline is None:
            self.deadline = time.monotonic() + HURRY_SECONDS
            if self.ps:
                self.ps.terminate()

    def watch(self) -> None:
        """Until the first server has ended; tells it of nodes that died, in case it has not noticed."""
        told: set[tuple[str, int]] = set()
        if self.deadline:  # interrupted while the nodes were starting
            self.ps.terminate()
        while self.ps.is_alive() and (self.deadline is None or time.monotonic() < self.deadline):
            wait([each.sentinel for each in self._alive()], timeout=0.25)
            for member, process in self.members.items():
                if process.exitcode and member not in told:
                    told.add(member)
                    self._tell(*member, f"its process {ending(process.exitcode)}; see {self._log(process.name)}")

    def _tell(self, method: str, rank: int, reason: str) -> None:
        with suppress(OSError):  # the server has gone as well
            self.control.send((method, rank, reason))

    def _log(self, name: str) -> Path:
        own = self.folder / "stats" / name / "worker.log"
        return own if name.startswith("worker") else self.folder / "run.log"

    def _alive(self) -> list:
        nodes = [self.ps, self.evaluator, *self.members.values()]
        return [node for node in nodes if node and node.is_alive()]

    def stop(self) -> None:
        """Nobody stays: who does not end in time is killed."""
        deadline = time.monotonic() + (LAST_SECONDS if self.deadline else ENDING_SECONDS)
        while self._alive() and self.ps not in self._alive() and time.monotonic() < deadline:
            wait([each.sentinel for each in self._alive()], timeout=0.1)
        for node in self._alive():
            node.kill()
            node.join()


def ending(exitcode: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"ended with status {exitcode}"


def child(target, config: dict, folder: Path, *arguments) -> None:
    """The main function of every process that is started here."""
    processes.tie_to_parent()
    log_to(folder / "run.log", everything=current_process().name == "ps")
    sys.exit(life(target, config, folder, *arguments))


def life(target, config: dict, folder: Path, *arguments) -> int:
    """A node's life in this process; the status with which it ends."""
    try:
        target(Job(config), folder, *arguments)
    except (KeyboardInterrupt, SystemExit):
        return 1
    except Exception as error:
        log.error("%s", error, exc_info=not isinstance(error, ConnectionError))
        return 1
    return 0


def log_to(path: Path, everything: bool) -> None:
    """The server logs to run.log and the terminal, the others their warnings and what kept them from working.

    What fails in a worker's work travels to the server, which logs it.
    """
    file, console = logging.FileHandler(path, delay=True), Console()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for handler in (file, console):
        if not everything:
            handler.addFilter(lambda record: record.levelno == logging.WARNING or record.name == __name__)
        logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _ps(job: Job, folder: Path, listener: socket, control: Connection) -> None:
    leading.serve(job, folder, listener, control)


def _server(job: Job, folder: Path, rank: int) -> None:
    following.follow(job, rank, folder)


def _worker(job: Job, folder: Path, rank: int) -> None:
    roles.work(job, rank, folder)


def _evaluator(job: Job, folder: Path) -> None:
    roles.judge(job, folder)
