"""``engine=virtual``: the same server and workers in deterministic virtual time.

A heap holds the arrivals to come, in the order of (time, worker). The next one is handled, the server answers, and
whoever is answered arrives again after the seconds that ``timing`` says. Arrivals queue while the server is busy with
one before.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from heapq import heapify, heappop, heappush, nsmallest
from itertools import repeat
from math import inf
from operator import add

from asgd.display import Display
from asgd.engines.fleet import Fleet, clock_only, computing
from asgd.engines.in_process import InProcessEngine, VirtualClock
from asgd.engines.recorder import Recorder
from asgd.job import Job
from asgd.messages import Reply
from asgd.server import Server
from asgd.workers import Worker

log = logging.getLogger(__name__)

SHOW_SECONDS = 0.25  # of real time between two looks at the run
AT_ONCE = 512  # arrivals between two writes; what is let go of so soon is never looked at by the garbage collector
NEVER = inf, 0  # nobody will ever come
READERS = 64  # processes that read data, at most


class VirtualEngine(InProcessEngine):
    """The same server and workers, in virtual time."""

    def reserve(self, job: Job) -> None:
        """ValueError for what cannot be run in virtual time on this machine."""
        if job.config["role"] != "all":
            raise ValueError(f"role={job.config['role']}: engine=virtual runs every role in one process; role=all")
        readers = getattr(job.dataset, "loaders", 0) * job.workers
        if readers > READERS:
            raise ValueError(f"dataset.loaders={job.dataset.loaders}: {readers} processes would read; give 0")
        instant = [rank for rank in range(1, job.workers + 1) if not takes_time(job, rank)]
        if instant:
            raise ValueError(f"timing: worker {instant[0]} needs no time, so time would stand still; give it seconds")
        super().reserve(job)
        check_data(job)

    def play(self, job: Job, recorder: Recorder) -> Fleet:
        kind = OverlapCluster if job.overlap else Cluster
        cluster = kind(recorder.server, job, recorder.clock, partial(self._fleet, job, recorder.server.selective))
        cluster.run(recorder)
        return cluster.fleet

    def _fleet(self, job: Job, selective: bool, coming: Callable) -> Fleet:
        if not job.task("cpu").params.numel():
            return clock_only(job)
        return computing(job, self.gradients, self.at_once, selective, coming)


def takes_time(job: Job, rank: int) -> bool:
    """Whether a worker's jobs last longer than nothing."""
    return job.timing.mean(rank) > 0 or job.timing.link_draws(rank, size=1) is not None


def check_data(job: Job) -> None:
    """ValueError if the data do not reach for all workers; a warning if not for full batches."""
    if not job.task("cpu").params.numel():
        return
    with closing(job.dataset.batches(job.workers, job.workers)) as batches:
        size = len(next(batches).targets)
    if size < job.dataset.batch_size:
        log.warning("batches have %d samples: there are not %d for each worker", size, job.dataset.batch_size)


class Cluster:
    """The workers of a run in virtual time, and the queue in front of its server."""

    def __init__(self, server: Server, job: Job, clock: VirtualClock, fleet: Callable[[Callable], Fleet]):
        self.server, self.workers, self.timing, self.clock = server, job.workers, job.timing, clock
        self.fleet = fleet(self.coming)
        self.heap: list[tuple[float, int]] = []  # (time, worker)
        self.due: dict[int, float] = {}  # when each worker's present job arrives
        self.seconds: dict[int, Iterator[float]] = {}  # of each worker's jobs
        self.service, self.free = self.timing.service_draws(), clock()  # when the server has time again

    def coming(self, number: int) -> list[int]:
        """The workers that arrive next."""
        soon = self.heap if len(self.heap) <= number else nsmallest(number, self.heap)
        return [worker for _, worker in soon]

    def run(self, recorder: Recorder) -> None:
        """All workers join; then arrival after arrival until the run is over."""
        for rank in range(1, self.workers + 1):
            self.join(rank)
        with Display() as display:
            while not self.server.ended:
                until = time.monotonic() + SHOW_SECONDS
                while time.monotonic() < until and not self.server.ended:
                    self.arrivals(until)
                    recorder.updates.flush()
                display.show(recorder.view)
                if recorder.interrupted.is_set():
                    self.server.end("interrupted")

    def join(self, rank: int) -> None:
        entry = self.server.ledger.get(rank)
        round = entry.round if entry else 0
        self.fleet.hire(rank, rank, round)
        self.seconds[rank] = self.durations(self.fleet.workers[rank])
        self.answer(self.server.join(rank, rank, self.clock.now))

    def durations(self, worker: Worker) -> Iterator[float]:
        """The seconds from each model that the worker is given to the arrival of its update."""
        seconds = self.timing.compute_draws(worker.rank, worker.round)
        links = self.timing.link_draws(worker.rank, worker.bytes_received, worker.round, up=worker.bytes_sent)
        if type(worker).steps is not Worker.steps:
            seconds = (each * worker.steps(worker.round) for each in seconds)
        return map(add, seconds, links) if links else seconds

    def arrivals(self, until: float) -> None:
        """``AT_ONCE`` arrivals, or until the real clock says ``until`` or the run is over."""
        server, clock, take, heap, due = self.server, self.clock, self.fleet.take, self.heap, self.due
        push, takes, selective, monotonic = server.push, server.takes, server.selective, time.monotonic
        deadline = server.deadline
        for _ in range(AT_ONCE):
            if server.ended or monotonic() > until:
                return
            at, worker = heappop(heap) if heap else NEVER
            if at < inf and at != due[worker]:
                continue  # that job was cancelled
            now = self.received(at) if self.service else at
            if now > deadline or now == inf:
                return self.end(deadline)
            if now < clock.now:
                raise RuntimeError(f"the clock would go back from {clock.now} to {now}")
            clock.now, due[worker] = now, inf
            self.answer(push(take(worker, takes), now))
            if selective:
                self.cancel(server.obsolete())

    def received(self, at: float) -> float:
        """When the server is done with receiving what arrives ``at`` this time."""
        self.free = max(at, self.free) + next(self.service)
        return self.free

    def answer(self, replies: list[Reply]) -> None:
        """Whoever gets a model arrives again after the seconds that ``timing`` says."""
        now, give, due, seconds = self.clock.now, self.fleet.give, self.due, self.seconds
        for worker, model, leases in replies:
            if model is not None:
                give(worker, model, leases)
                due[worker] = at = now + next(seconds[worker])
                heappush(self.heap, (at, worker))

    def cancel(self, workers: list[int]) -> None:
        """These workers drop what they do and start anew; their old arrivals stay on the heap until it is swept."""
        if workers:
            self.due.update(dict.fromkeys(workers, inf))
            self.answer(self.server.cancel(workers, self.clock.now))
        if len(self.heap) > 4 * self.workers + 1000:
            self.heap[:] = [(at, worker) for at, worker in self.heap if self.due[worker] == at]
            heapify(self.heap)

    def end(self, deadline: float) -> None:
        """The seconds are spent, or no worker will ever arrive again."""
        if deadline < inf:
            self.clock.now = deadline
            self.server.end("budget")
        else:
            log.error("no worker will ever arrive again: the recorded durations are used up; give a smaller budget")
            self.server.end("error")


class OverlapCluster(Cluster):
    """Workers compute while their last update and its answer are on the way: what takes longer decides."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sent: dict[int, float] = {}  # when each worker sent its last update, and began to compute the next

    def durations(self, worker: Worker) -> Iterator[tuple[float, float, float]]:
        """The seconds of each job: computing, on the way down and on the way up."""
        sizes = {"downlink": worker.bytes_received, "uplink": worker.bytes_sent}
        links = [self.timing.way_draws(way, worker.rank, sizes[way], worker.round) or repeat(0.0) for way in sizes]
        seconds = self.timing.compute_draws(worker.rank, worker.round)
        return zip((each * worker.steps(worker.round) for each in seconds), *links, strict=True)

    def answer(self, replies: list[Reply]) -> None:
        """An update is sent when it is computed and the one before has been answered."""
        for worker, model, leases in replies:
            if model is not None:
                self.fleet.give(worker, model, leases)
                compute, down, up = next(self.seconds[worker])
                got = self.clock.now + down
                self.sent[worker] = max(self.sent.get(worker, got) + compute, got)
                self.due[worker] = at = self.sent[worker] + up
                heappush(self.heap, (at, worker))
