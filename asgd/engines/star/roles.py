"""The nodes of a star: the parameter server and a worker."""

import json
import logging
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket

import torch

from asgd import keys
from asgd.engines import processes
from asgd.engines.base import Clock, WorkerNode, run_worker
from asgd.engines.evaluators import Evaluator
from asgd.engines.roles import GOODBYE_SECONDS, HURRY_SECONDS, compare, is_folder_of
from asgd.engines.shipping import Shipper
from asgd.engines.star.caller import MOST, Anew, Caller, Lost
from asgd.engines.star.contents import Goodbye, Ship, Welcome
from asgd.engines.star.exchange import DurableExchange, Kept, Line, StarExchange
from asgd.engines.star.hosting import StarHost
from asgd.engines.star.post import Post
from asgd.engines.star.service import Service
from asgd.engines.star.session import CHUNK
from asgd.job import Job

log = logging.getLogger(__name__)

ROOM = 64  # messages that may wait for a worker beside the pieces of models


def serve(job: Job, folder: Path, listener: socket, control: Connection | None = None) -> None:
    """The parameter server's life. ``control`` brings the ends of nodes that died, and None to interrupt the run."""
    torch.set_num_threads(job.engine.server_threads(job))
    processes.allow_files()
    evaluator = Evaluator(job)
    evaluator.came.set()  # no node will come; a process of its own judges
    host = StarHost(job, folder, evaluator)
    waiting = 2 * (host.server.model_bytes // CHUNK) + ROOM  # an answer that is asked for again, beside the first
    post = Post(listener, job.engine.lease, CHUNK + MOST, job.engine.ring(keys.SERVER), waiting)
    service = Service(host, post)
    if control:
        threading.Thread(target=listen_to, args=(control, service), name="control", daemon=True).start()
    try:
        with processes.catching(host.interrupted.set):
            host.wait(job.engine.join_timeout)
            conclude(host, service)
    finally:
        service.close()
        evaluator.close()
        host.close()
    if host.hub.error:
        raise host.hub.error


def conclude(host: StarHost, service: Service) -> None:
    """The run is over: the workers' goodbyes, the last evaluation and checkpoint, the summary."""
    seconds = host.server.training_seconds(host.clock())
    service.dismiss(HURRY_SECONDS if host.server.ended == "interrupted" else GOODBYE_SECONDS)
    host.finish(seconds)


def listen_to(control: Connection, service: Service) -> None:
    with suppress(EOFError):
        while True:
            if news := control.recv():
                service.failed(*news)
            else:
                service.host.interrupted.set()


def work(job: Job, rank: int | None, folder: Path) -> None:
    """A worker's life, in which it may have to begin anew: a session that the server does not know any more is over."""
    torch.set_num_threads(job.threads)
    processes.keep_memory()
    engine, stop = job.engine, threading.Event()
    caller = Caller(engine.address, engine.join_timeout, stop, engine.ring(keys.WORKER))
    try:
        Worker(job, rank, folder, Line(caller), stop).live()
    finally:
        caller.close()


class Worker:
    """A worker's node, and the session with which it works."""

    def __init__(self, job: Job, rank: int | None, folder: Path, line: Line, stop: threading.Event):
        self.job, self.line, self.stop = job, line, stop
        self.kept = Kept() if job.engine.durability == "update" else None
        welcome = line.hello(rank, job.engine.join_timeout)
        check_options(welcome, job)
        self.rank, self.clock, self.epoch = welcome.rank, Clock(), 0
        self.fresh = not (folder / "stats" / f"worker{self.rank}" / "parameters.json").exists()
        self.node = WorkerNode(job, folder, self.rank, self.clock)
        self.bases: dict[str, int] = {}
        self.welcomed(welcome)
        self.shipper = None if is_folder_of(welcome.run, folder) else Shipper(self.node.folder, self.ship)

    def welcomed(self, welcome: Welcome) -> None:
        """Go on where the server is. Lost if that is an older server than was seen before."""
        if welcome.epoch < self.epoch:
            raise Lost(f"a server of epoch {welcome.epoch} has answered after one of epoch {self.epoch}")
        self.epoch, self.round = welcome.epoch, self.kept.go_on(welcome.round) if self.kept else welcome.round
        self.clock.set(welcome.clock)
        self.node.rewind(self.round)

    def live(self) -> None:
        """To the end of the run, or until it is interrupted: then it leaves the others to it."""
        failure = None
        try:
            with processes.catching(processes.interrupt):
                while not self.finished():
                    self.begin_anew()
        except Lost:
            raise
        except Exception:
            log.exception("worker %d failed", self.rank)
            failure = f"see {self.node.folder / 'worker.log'}\n{traceback.format_exc()}"
            raise SystemExit(1) from None  # it has been said
        finally:
            self.node.close()
            self.leave(Goodbye(self.node.skipped, failure))

    def finished(self) -> bool:
        """Work until the run is over, or (false) until a new session is needed."""
        try:
            run_worker(self.job, self.node, self.rank, self.round, self.exchange(), self.clock, self.stop)
        except Anew as error:
            log.warning("%s; beginning a new one", error)
            return self.stop.is_set()
        return True

    def exchange(self) -> StarExchange:
        options = self.line, self.rank, self.job.engine.payload, 2 if self.job.overlap else 1
        return DurableExchange(*options, kept=self.kept, renew=self.begin_anew) if self.kept else StarExchange(*options)

    def begin_anew(self) -> int:
        """A new session, and the round at which it goes on."""
        self.welcomed(self.line.hello(self.rank, self.job.engine.join_timeout, anew=True))
        return self.round

    def ship(self, name: str, at: int, data: bytes) -> None:
        """A file that was not there when this process came continues what the server has of an earlier one."""
        base = self.bases.get(name, None if self.fresh and name != "parameters.json" else 0)
        vector = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        answer, _ = self.line.call(Ship(name, len(data), base, at), vector)
        self.bases[name] = answer.base

    def leave(self, farewell: Goodbye) -> None:
        """The last rows and the goodbye, where the server is still there to hear them."""
        self.line.caller.patience = HURRY_SECONDS
        try:
            if self.shipper:
                self.shipper.close()
            self.line.call(farewell)
        except (ConnectionError, ValueError) as error:
            log.error("the server has not heard the goodbye: %s", error)


def check_options(welcome: Welcome, job: Job) -> None:
    """ValueError where the server's options and those of this node differ."""
    if differences := compare(json.loads(welcome.options), json.loads(json.dumps(job.shared()))):
        raise ValueError(f"this worker and the server disagree; give both the same options:\n{differences}")
