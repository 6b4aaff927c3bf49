"""Who judges snapshots: an evaluator node if one has come, else a process of the server's own."""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from asgd.engines import processes
from asgd.job import Job
from asgd.messages import Model
from asgd.task import Evaluation

log = logging.getLogger(__name__)


class Evaluator:
    """Calls the node that was ``offered``; without one within ``WAIT`` seconds, a process of its own, made once."""

    WAIT = 5.0

    def __init__(self, job: Job):
        self.job = job
        self.node: Callable[[Model], Evaluation] | None = None
        self.pool: ProcessPoolExecutor | None = None
        self.came = threading.Event()

    def offered(self, node: Callable[[Model], Evaluation]) -> None:
        self.node = node
        self.came.set()

    def lost(self, reason: str) -> None:
        """The node has gone; the next evaluation is made here."""
        self.node = None

    def __call__(self, model: Model) -> Evaluation:
        if not self.pool:
            self.came.wait(self.WAIT)
        try:
            return self.node(model) if self.node else self._here(model)
        except ConnectionError as error:
            log.warning("the evaluator is gone (%s); evaluating on the server's host", error)
            self.lost(str(error))
            return self._here(model)

    def _here(self, model: Model) -> Evaluation:
        try:
            return self._process().submit(_evaluate, model).result()
        except BrokenProcessPool:
            log.warning("the evaluation process died; starting another")
            self.close()
            return self._process().submit(_evaluate, model).result()

    def _process(self) -> ProcessPoolExecutor:
        if not self.pool:
            arguments = {"mp_context": processes.context(), "initializer": _prepare, "initargs": (self.job.config,)}
            self.pool = ProcessPoolExecutor(1, **arguments)
        return self.pool

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)
        self.pool = None


_judge: tuple | None = None


def _prepare(config: dict) -> None:
    global _judge
    processes.tie_to_parent()
    os.nice(5)  # training goes first
    job = Job(config)
    torch.set_num_threads(job.threads)
    _judge = job, job.task()


def _evaluate(model: Model) -> Evaluation:
    job, task = _judge
    return job.evaluate(task, model)
