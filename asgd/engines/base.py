"""What the real engines share: the clock, a worker's loop, and the files of a node."""

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from asgd import describe
from asgd.data.batch import Batch
from asgd.engines.overlapping import Overlapping, Stopped
from asgd.job import Job
from asgd.messages import Reply, Update
from asgd.records import METRICS, Table, keep_first, write_json
from asgd.system_stats import SystemStats
from asgd.task import Task
from asgd.timing import Timing
from asgd.workers import Worker

log = logging.getLogger(__name__)
speaker: ContextVar[str | None] = ContextVar("speaker", default=None)  # the node that logs, where one process has many


now = time.monotonic  # for durations: the clock of a run goes back where its server does


class Clock:
    """Seconds since the start of the run; ``offset`` continues an earlier clock."""

    def __init__(self, offset: float = 0.0):
        self.set(offset)

    def set(self, seconds: float) -> None:
        self.zero = time.monotonic() - seconds

    @property
    def real(self) -> "Clock":
        """A clock of the time that passes here."""
        return self

    def __call__(self) -> float:
        return self.at(now())

    def at(self, moment: float) -> float:
        """The run's time at a moment of ``now``."""
        return moment - self.zero


class Exchange(Protocol):
    """A worker's way to the server. ``join`` and ``push`` block until the reply is there."""

    def attach(self, task: Task) -> None:
        """Get ready for messages of this task's size."""

    def join(self, worker: int, session: int) -> Reply: ...

    def push(self, update: Update) -> Reply: ...


class TimedBatches:
    """Passes batches on, counts the seconds they were waited for, and raises ``Stopped`` once ``stop`` is set.

    The first batch is read at once, so that a worker which joins is ready to compute; unless the server has to say
    first what is to be read.
    """

    def __init__(self, batches: Iterator[Batch], stop: threading.Event):
        self.extend = getattr(batches, "extend", lambda leases: None)
        first = [] if hasattr(batches, "extend") else [next(batches)]
        self.batches, self.stop, self.waited = itertools.chain(first, batches), stop, 0.0

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        if self.stop.is_set():
            raise Stopped
        start = now()
        batch = next(self.batches)
        self.waited += now() - start
        return batch

    def pause(self, seconds: float) -> None:
        """Sleep, unless or until ``stop`` is set."""
        if seconds > 0 and self.stop.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise Stopped


def check_timing(job: Job) -> None:
    """ValueError for what a real engine cannot add to the time things take."""
    if job.timing.service_draws() is not None:
        service = job.config["timing"]["service"]
        raise ValueError(f"timing.service={service}: null on this engine, whose server takes the time it takes")
    if job.overlap and job.timing.link_draws(1, 1) is not None:
        raise ValueError(
            "worker.overlap=true: timing.uplink and downlink are slept on this engine, and nothing is computed then; "
            "leave them null, or take engine=virtual"
        )


def extra_seconds(timing: Timing, worker: Worker) -> Iterator[float]:
    """What ``timing`` adds to each round; to be asked before the round."""
    sizes = worker.bytes_received, worker.round, worker.bytes_sent
    compute, links = timing.compute_draws(worker.rank, worker.round), timing.link_draws(worker.rank, *sizes)
    for seconds, link in zip(compute, links or itertools.repeat(0.0), strict=True):
        yield seconds * worker.steps(worker.round) + link


def work(
    worker: Worker, batches: TimedBatches, exchange: Exchange, metrics: Table, clock: Clock, extra: Iterator[float]
) -> None:
    """A worker's life: get a model, answer it, and so on until the server says stop.

    Each round is a row: ``compute_s`` without, ``wait_s`` with the time that data (``data_s``) and the server's reply
    took. The ``extra`` seconds of each round are slept, and count as computing.
    """
    reply = exchange.join(worker.rank, worker.session)
    while reply.model is not None:
        batches.extend(reply.leases)
        start, waited, seconds = now(), batches.waited, next(extra)
        update = worker.compute(reply.model, batches)
        batches.pause(seconds)
        computed, data = now(), batches.waited - waited
        reply, ended = exchange.push(update), now()
        accuracy = None if update.correct is None else update.correct / update.samples
        place = (clock.at(ended), worker.batch.epoch, worker.batch.index, update.loss, accuracy, update.version)
        metrics.row(*place, computed - start - data, ended - computed + data, update.samples, data)


class Node:
    """The folder ``stats/<name>`` of a process of the run: ``parameters.json`` and ``system_stats.csv``."""

    def __init__(self, folder: Path, name: str, parameters: dict, clock: Clock):
        self.folder = folder / "stats" / name
        write_json(self.folder / "parameters.json", parameters)
        self.system = SystemStats(self.folder, clock)

    def close(self) -> None:
        self.system.close()


class WorkerNode(Node):
    """A worker's node: also ``training_metrics.csv``, and ``worker.log`` with what is logged on behalf of it."""

    def __init__(self, job: Job, folder: Path, rank: int, clock: Clock):
        parameters = describe.node(job.config, "worker", rank, str(job.device), job.threads)
        super().__init__(folder, f"worker{rank}", parameters, clock)
        self.metrics = Table(self.folder / "training_metrics.csv", METRICS)
        self.log = logging.FileHandler(self.folder / "worker.log")
        self.log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        speaker.set(name := f"worker{rank}")
        self.log.addFilter(lambda record: speaker.get() in (None, name))
        logging.getLogger().addHandler(self.log)
        self.skipped = 0  # broken samples

    def rewind(self, round: int) -> None:
        """Take the rows of this round and later ones out of ``training_metrics.csv``: they are undone."""
        self.metrics.flush()
        keep_first(self.folder / "training_metrics.csv", round)

    def close(self) -> None:
        super().close()
        self.metrics.close()
        logging.getLogger().removeHandler(self.log)
        self.log.close()


def run_worker(job: Job, node: WorkerNode, rank: int, round: int, exchange: Exchange, clock: Clock, stop) -> None:
    """Build worker ``rank`` at its ``round`` and let it work until the run is over."""
    session = secrets.randbits(62)
    task = job.task()
    exchange = Overlapping(exchange) if job.overlap else exchange
    exchange.attach(task)
    worker = job.worker(task, rank, session, round)
    log.info("worker %d starts at round %d on %s", rank, round, job.device)
    batches = job.batches(worker, job.dataset.ahead)
    extra = extra_seconds(job.timing, worker)
    try:
        with exchange if job.overlap else nullcontext():
            work(worker, TimedBatches(batches, stop), exchange, node.metrics, clock, extra)
    except Stopped:
        pass
    finally:
        node.skipped += worker.skipped
        batches.close()
    log.info("worker %d ends after round %d", rank, worker.round)
