"""The nodes of a run that one command starts: it watches them until the server has ended, and none of them stays."""

import logging
import signal
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from multiprocessing import current_process
from multiprocessing.connection import wait
from pathlib import Path
from socket import socket

from asgd.display import Console
from asgd.engines import processes
from asgd.job import Job

log = logging.getLogger(__name__)

ENDING_SECONDS = 5.0  # for the other nodes when the server has gone
HURRY_SECONDS = 4.0  # for the server after Ctrl-C
LAST_SECONDS = 0.5  # for the other nodes then


class Nodes(ABC):
    """``ps`` is the server's node. ``interrupt`` asks it to end the run.

    A node has a ``name``, an ``exitcode`` as processes have, and ``is_alive``, ``terminate``, ``kill`` and ``join``.
    """

    def __init__(self, config: dict, folder: Path):
        self.config, self.folder = config, folder
        self.ps, self.deadline = None, None

    @abstractmethod
    def start_all(self) -> None: ...

    @abstractmethod
    def others(self) -> list:
        """The nodes beside the server, as far as they are there."""

    @abstractmethod
    def look_after(self) -> None:
        """Do what is to be done about others that have died."""

    @abstractmethod
    def wait(self, nodes: list, seconds: float) -> None:
        """Until one of them ends, for so long at most."""

    @abstractmethod
    def how(self, node) -> str:
        """How it ended, in words."""

    def revived(self) -> bool:
        """Whether a server that has ended was started again."""
        return False

    def run(self) -> None:
        """Start them and stay until the last has gone. RuntimeError when the server did not end as it should."""
        with processes.catching(self.interrupt):
            try:
                self.start_all()
                self.watch()
            finally:
                self.stop()
        if self.ps.exitcode and self.deadline:
            raise KeyboardInterrupt
        if self.ps.exitcode:
            raise RuntimeError(f"the parameter server {self.how(self.ps)}; see {self.folder / 'run.log'}")

    def interrupt(self) -> None:
        if self.deadline is None:
            self.deadline = time.monotonic() + HURRY_SECONDS
            if self.ps:
                self.ps.terminate()

    def watch(self) -> None:
        """Until the server has ended for good."""
        if self.deadline:  # interrupted while the nodes were starting
            self.ps.terminate()
        while (self.ps.is_alive() or self.revived()) and (self.deadline is None or time.monotonic() < self.deadline):
            self.wait(self.alive(), 0.25)
            self.look_after()

    def alive(self) -> list:
        return [node for node in (self.ps, *self.others()) if node and node.is_alive()]

    def stop(self) -> None:
        """Nobody stays: who does not end in time is killed."""
        deadline = time.monotonic() + (LAST_SECONDS if self.deadline else ENDING_SECONDS)
        while self.alive() and self.ps not in self.alive() and time.monotonic() < deadline:
            self.wait(self.alive(), 0.1)
        for node in self.alive():
            node.kill()
            node.join()


class Processes(Nodes):
    """Nodes that are processes on this machine. The server listens on ``listener`` and is told news through a pipe."""

    def __init__(self, *arguments, listener: socket):
        super().__init__(*arguments)
        self.listener, self.context = listener, processes.context()

    def start_ps(self, target, config: dict):
        self.control, end = self.context.Pipe()
        return self.start("ps", target, config, self.listener, end)

    def start(self, name: str, target, config: dict, *arguments):
        process = self.context.Process(target=child, name=name, args=(target, config, self.folder, *arguments))
        process.start()
        return process

    def tell(self, *news) -> None:
        with suppress(OSError):  # the server has gone as well
            self.control.send(news)

    def wait(self, nodes: list, seconds: float) -> None:
        wait([each.sentinel for each in nodes], seconds)

    def how(self, node) -> str:
        return ending(node.exitcode)


def ending(exitcode: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"ended with status {exitcode}"


# In a node


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
