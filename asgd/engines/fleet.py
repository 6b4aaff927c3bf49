"""The workers of an engine that decides the order of arrival itself: all in this process, on one task.

A job depends only on what was fixed when its model was given out, so it may be computed at any moment before it
arrives. When one is needed, others that are under way are computed with it in one call (``asgd.engines.gradients``).
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice

from asgd.data.batch import Batch
from asgd.engines import gradients
from asgd.job import Job
from asgd.messages import Model, Update
from asgd.workers import GradientWorker, Worker

log = logging.getLogger(__name__)

SAMPLE = 64  # works on which the ways to compute gradients are compared


class Fleet:
    """``choice`` of ``gradients.CHOICES``. At most ``at_once`` jobs are computed in one call; local steps one by one.

    ``coming(n)`` names the n workers that are to arrive next: their jobs are computed first. With ``selective``, work
    may turn out to be in vain, so nothing is computed before it arrives.
    """

    def __init__(self, job: Job, choice: str, at_once: int, selective: bool, coming: Callable[[int], Iterable[int]]):
        self.job, self.coming, self.task = job, coming, job.task()
        self.workers: dict[int, Worker] = {}
        self.batches: dict[int, Iterator[Batch]] = {}
        self.held: dict[int, Model] = {}
        self.solved: dict[int, gradients.Answer] = {}
        batched = isinstance(job.worker(self.task, 1, 0), GradientWorker) and not selective
        self.strategy = gradients.Single(self.task)
        if batched and choice != "single":
            self.strategy = self._choose(choice, min(SAMPLE, at_once, job.workers))
        self.at_once = at_once if batched and self.strategy.most > 1 else 1

    def _choose(self, choice: str, count: int) -> gradients.Strategy:
        """Compare the ways to compute gradients on the first batches of worker 1."""
        worker, ignored = self.job.worker(self.task, 1, 0), not self.job.buffers.merges
        model = Model(0, self.task.params.clone(), self.task.buffers)
        with closing(self.job.dataset.batches(worker.rank, self.job.dealt)) as batches:
            works = [worker.prepare(model, batch) for batch in islice(batches, count)]
        return gradients.choose(choice, self.task, works, ignored)

    def hire(self, rank: int, session: int, round: int) -> None:
        """A new life of worker ``rank``."""
        self.dismiss(rank)
        worker = self.workers[rank] = self.job.worker(self.task, rank, session, round)
        self.batches[rank] = self.job.batches(worker)

    def dismiss(self, rank: int) -> None:
        """The worker is gone, and what it did."""
        self.held.pop(rank, None), self.solved.pop(rank, None), self.workers.pop(rank, None)
        if rank in self.batches:
            self.batches.pop(rank).close()

    def give(self, rank: int, model: Model, leases: tuple) -> None:
        """What the worker computes on from now, and reads later."""
        self.held[rank] = model
        if leases and rank in self.batches:
            self.batches[rank].extend(leases)

    def take(self, rank: int, takes: Callable[[int], bool]) -> Update:
        """The worker's update; without its payload if nobody ``takes`` what was computed on that version."""
        worker = self.workers[rank]
        update = self._update(worker, takes(self.held[rank].version))
        worker.batch = None  # thousands of workers need not hold on to their data
        del self.held[rank]
        return update

    def _update(self, worker: Worker, wanted: bool) -> Update:
        rank, model, batches = worker.rank, self.held[worker.rank], self.batches[worker.rank]
        if not wanted and worker.stateless and rank not in self.solved:
            return worker.leave_out(model, batches)
        if self.at_once == 1:
            return worker.compute(model, batches)
        if rank not in self.solved:
            self._solve(rank)
        return worker.answer(model, *self.solved.pop(rank))

    def _solve(self, rank: int) -> None:
        """Compute this worker's job, and with it those that come next."""
        ranks = [rank]
        for other in self.coming(self.at_once):
            if other != rank and other in self.held and other not in self.solved and len(ranks) < self.at_once:
                ranks.append(other)
        works = [self._work(each) for each in ranks]
        self.solved.update(zip(ranks, self.strategy.solve(works), strict=True))

    def _work(self, rank: int) -> gradients.Work:
        worker = self.workers[rank]
        return worker.prepare(self.held[rank], worker.next(self.batches[rank]))

    @property
    def skipped(self) -> int:
        """Broken samples that the data left out."""
        return sum(worker.skipped for worker in self.workers.values())

    def close(self) -> None:
        if self.solved:
            log.info("%d gradients were computed for jobs that had not arrived when the run ended", len(self.solved))
        for rank in list(self.batches):
            self.dismiss(rank)


class ClockOnly(Fleet):
    """The fleet of a model without parameters: nothing is computed and no data are read."""

    def __init__(self, job: Job):
        self.job, self.task = job, job.task()
        self.workers, self.batches, self.held, self.solved = {}, {}, {}, {}
        self.params, self.buffers, self.samples = self.task.params.cpu(), self.task.buffers, job.dataset.batch_size

    def hire(self, rank: int, session: int, round: int) -> None:
        self.workers[rank] = self.job.worker(self.task, rank, session, round)

    def take(self, rank: int, takes: Callable[[int], bool]) -> Update:
        worker = self.workers[rank]
        samples = worker.steps(worker.round) * self.samples
        return worker.update(self.held[rank], self.params, self.buffers, None, None, samples)


class Ahead:
    """A fleet whose workers have two models: what the next update is computed on, and what the one after that is."""

    later: dict[int, Model]

    def dismiss(self, rank: int) -> None:
        super().dismiss(rank)
        self.later.pop(rank, None)

    def give(self, rank: int, model: Model, leases: tuple) -> None:
        self.later[rank] = model
        if rank not in self.held:
            super().give(rank, model, leases)

    def take(self, rank: int, takes: Callable[[int], bool]) -> Update:
        update = super().take(rank, takes)
        self.held[rank] = self.later[rank]
        return update


def computing(job: Job, *arguments) -> Fleet:
    """The fleet of a run that computes; ``arguments`` are those of ``Fleet``."""
    return (AheadFleet if job.overlap else Fleet)(job, *arguments)


def clock_only(job: Job) -> ClockOnly:
    return (AheadClockOnly if job.overlap else ClockOnly)(job)


class AheadFleet(Ahead, Fleet):
    def __init__(self, *arguments):
        self.later = {}
        super().__init__(*arguments)


class AheadClockOnly(Ahead, ClockOnly):
    def __init__(self, *arguments):
        self.later = {}
        super().__init__(*arguments)
