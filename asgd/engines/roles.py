"""The nodes of a run over RPC: the parameter server, a worker, an evaluator."""

import json
import logging
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket

import torch
from torch.futures import Future

from asgd import describe
from asgd.engines import divided, processes, rpc
from asgd.engines.base import Clock, Node, WorkerNode, run_worker
from asgd.engines.evaluators import Evaluator
from asgd.engines.host import MARK, Host
from asgd.engines.mail import Mail
from asgd.engines.shipping import Inbox, Shipper
from asgd.job import Job
from asgd.messages import Model
from asgd.task import Evaluation

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 60.0  # for a worker to finish its batch when the run is over
HURRY_SECONDS = 1.5  # the same after Ctrl-C


class Service(Mail):
    """What workers and the evaluator may ask of the server."""

    def __init__(self, host: Host, evaluator: Evaluator):
        super().__init__(host.hub)
        self.host, self.evaluator, self.inbox = host, evaluator, Inbox(host.folder)
        self.present: set[int] = set()
        self.told: set[int] = set()  # those whose end is known
        self.lock, self.empty = threading.Lock(), threading.Event()
        self.over: Future = Future()
        self.evaluator_left = threading.Event()
        self.empty.set()

    def hello(self, rank: int) -> dict:
        """A worker has come. It learns the run's time and the round it goes on at."""
        with self.lock:
            self.present.add(rank)
            self.empty.clear()
        rpc.when_lost(f"worker{rank}", lambda reason: self._gone(rank, self.host.lost, reason))
        entry = self.host.server.ledger.get(rank)
        return self.welcome() | {"round": entry.round if entry else 0}

    def welcome(self) -> dict:
        """The run's time, and the mark by which a node knows the server's folder when it sees it."""
        return {"clock": self.host.clock(), "run": self.host.mark}

    def ship(self, node: str, name: str, data: bytes) -> None:
        self.inbox.receive(node, name, data)

    def goodbye(self, rank: int, skipped: int) -> None:
        self._gone(rank, self.host.goodbye, skipped)

    def failed(self, rank: int, reason: str) -> None:
        self._gone(rank, self.host.lost, reason)

    def _gone(self, rank: int, tell, *details) -> None:
        """The first news of a worker's end counts."""
        with self.lock:
            first = rank not in self.told
            self.told.add(rank)
        if first:
            tell(rank, *details)
            self.forget(rank)
        with self.lock:
            self.present -= {rank} if first else set()
            if not self.present:
                self.empty.set()

    def offer_evaluation(self) -> Future:
        """An evaluator has come; the future is done when the run is over."""
        rpc.when_lost("evaluator", self._evaluator_lost)
        self.evaluator.offered(lambda model: rpc.result(rpc.call("evaluator", "evaluate", model)))
        return self.over

    def _evaluator_lost(self, reason: str) -> None:
        self.evaluator.lost(reason)
        self.evaluator_left.set()

    def goodbye_evaluator(self) -> None:
        self.evaluator.node = None
        self.evaluator_left.set()

    def dismiss(self, seconds: float) -> None:
        """Tell the workers that the run is over and wait for their goodbyes."""
        for rank in sorted(self.present):
            rpc.call(f"worker{rank}", "stop")
        if not self.empty.wait(seconds):
            log.warning("no goodbye from workers %s within %g s", sorted(self.present), seconds)
            self.told |= self.present

    def close(self) -> None:
        """Let the evaluator go, if one has come, and close what workers have left open."""
        super().close()
        self.over.set_result(None)
        if self.evaluator.came.is_set():
            self.evaluator_left.wait(HURRY_SECONDS)


def serve(job: Job, folder: Path, listener: socket | None, control: Connection | None = None, *, kinds: tuple) -> dict:
    """The parameter server's life; returns the summary. ``control`` brings the ends of nodes that died.

    ``kinds`` are those of the host and of the service.
    """
    engine = job.engine
    torch.set_num_threads(engine.server_threads(job))
    evaluator = Evaluator(job)
    host_kind, service_kind = kinds
    host = host_kind(job, folder, evaluator, engine.on_worker_failure)
    service = service_kind(host, evaluator)
    store = rpc.open_store(engine.host, engine.port, listener)
    rpc.connect("ps", 0, service, store, engine.interface_name(), threads=job.workers + 4)
    store.set("shared", json.dumps(job.shared()))
    store.set(rpc.READY, "1")
    if control:
        threading.Thread(target=_listen_to, args=(control, service), name="control", daemon=True).start()
    with processes.catching(host.interrupted.set):
        host.wait(engine.join_timeout)
        seconds = host.server.training_seconds(host.clock())
        service.dismiss(HURRY_SECONDS if host.server.ended == "interrupted" else GOODBYE_SECONDS)
        summary = host.finish(seconds)
        service.close()
        evaluator.close()
        rpc.disconnect()
    if host.hub.error:
        raise host.hub.error
    return summary


def _listen_to(control: Connection, service: Service) -> None:
    with suppress(EOFError):
        while True:
            method, *details = control.recv()
            getattr(service, method)(*details)


class WorkerService:
    """What the server may ask of a worker."""

    def __init__(self):
        self.stopped = threading.Event()

    def lifeline(self) -> Future:
        """Never done: it breaks when this process ends."""
        return Future()

    def stop(self) -> None:
        self.stopped.set()


def enlist(job: Job, name: str, rank: int) -> tuple:
    """Find the server and take this node's place. ValueError when the place is taken or the options differ."""
    engine = job.engine
    store = rpc.find_store(engine.host, engine.port, engine.join_timeout)
    differences = compare(json.loads(store.get("shared")), json.loads(json.dumps(job.shared())))
    if differences:
        raise ValueError(f"this {name} and the server disagree; give both the same options:\n{differences}")
    if store.add(f"place/{name}", 1) > 1:
        raise ValueError(f"the run at {engine.host}:{engine.port} already has {name}; give each its own rank")
    return store, rank, engine.interface_name()


def compare(server: dict, own: dict) -> str:
    """The options that differ, one a line."""
    names = [name for name in sorted(server | own) if server.get(name) != own.get(name)]
    return "\n".join(f"  {name}: server {server.get(name)}, here {own.get(name)}" for name in names)


def work(job: Job, rank: int, folder: Path) -> None:
    """A worker's life. Unless it writes into the server's own folder, the server gets its files while they grow."""
    torch.set_num_threads(job.threads)
    processes.keep_memory()
    service, name = WorkerService(), f"worker{rank}"
    store, place, interface = enlist(job, name, rank)
    held = 2 if job.overlap else 1
    exchange = divided.exchange(rank, job.engine.payload, job.engine.servers, store, job.engine.join_timeout, held)
    rpc.connect(name, place, service, store, interface, threads=4)
    welcome = rpc.result(rpc.call("ps", "hello", rank))
    clock = Clock(welcome["clock"])
    node = WorkerNode(job, folder, rank, clock)
    shipper = None if is_folder_of(welcome["run"], folder) else shipper_of(node)
    farewell = ("failed", rank, "it was interrupted")
    try:
        with processes.catching(processes.interrupt):
            run_worker(job, node, rank, welcome["round"], exchange, clock, service.stopped)
        farewell = ("goodbye", rank, node.skipped)
    except rpc.Lost:
        if not service.stopped.wait(HURRY_SECONDS):  # else one of several servers was lost, and so the run is over
            raise
        farewell = ("goodbye", rank, 0)
    except Exception:
        log.exception("worker %d failed", rank)
        farewell = ("failed", rank, f"see {node.folder / 'worker.log'}\n{traceback.format_exc()}")
        raise SystemExit(1) from None  # it has been said
    finally:
        node.close()
        leave(shipper, farewell)


def is_folder_of(run: str, folder: Path) -> bool:
    """Whether the server of ``run`` writes into this very folder."""
    mark = folder / MARK
    return mark.exists() and mark.read_text() == run


def shipper_of(node: Node) -> Shipper:
    """Sends the node's files to the server."""
    return Shipper(node.folder, lambda name, at, data: rpc.result(rpc.call("ps", "ship", node.folder.name, name, data)))


def leave(shipper: Shipper | None, farewell: tuple) -> None:
    """The last rows and the goodbye, where the server is still there to hear them."""
    try:
        if shipper:
            shipper.close()
    except Exception as error:
        log.error("the server's copy of the last rows is not complete: %s", error)
    with suppress(rpc.Lost):
        rpc.result(rpc.call("ps", *farewell))
    rpc.disconnect()


class EvaluatorService(WorkerService):
    """What the server may ask of an evaluator."""

    def __init__(self, job: Job):
        super().__init__()
        self.job, self.task = job, job.task()

    def evaluate(self, model: Model) -> Evaluation:
        return self.job.evaluate(self.task, model)


def judge(job: Job, folder: Path) -> None:
    """An evaluator's life: judge the snapshots that the server sends until the run is over."""
    torch.set_num_threads(job.threads)
    store, place, interface = enlist(job, "evaluator", job.workers + 1)
    rpc.connect("evaluator", place, EvaluatorService(job), store, interface, threads=2)
    welcome = rpc.result(rpc.call("ps", "welcome"))
    parameters = describe.node(job.config, "evaluator", None, str(job.device), job.threads)
    node = Node(folder, "evaluator", parameters, Clock(welcome["clock"]))
    shipper = None if is_folder_of(welcome["run"], folder) else shipper_of(node)
    try:
        with processes.catching(processes.interrupt):
            rpc.result(rpc.call_later("ps", "offer_evaluation"))
    finally:
        node.close()
        leave(shipper, ("goodbye_evaluator",))
