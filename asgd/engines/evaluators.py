"""Who judges snapshots: an evaluator node if one has come, else a process of the server's own."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
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
        self.came, self.closed = threading.Event(), False

    def offered(self, node: Callable[[Model], Evaluation]) -> None:
        self.node = node
        self.came.set()

    def lost(self, reason: str) -> None:
        """The node has gone; the next evaluation is made here."""
        if self.node:
            log.warning("the evaluator is gone (%s); evaluating on the server's host", reason)
        self.node = None

    def __call__(self, model: Model) -> Evaluation:
        if not self.pool:
            self.came.wait(self.WAIT)
        node = self.node
        try:
            return node(model) if node else self._here(model)
        except ConnectionError as error:
            self.lost(str(error))
            return self._here(model)

    def _here(self, model: Model) -> Evaluation:
        """As arrays: a tensor that is sent to a process moves to other memory, and others read it where it is."""
        arrays = model.version, model.params.numpy(), model.buffers.numpy()
        try:
            return self._process().submit(_evaluate, *arrays).result()
        except BrokenProcessPool:
            if self.closed:
                raise
            log.warning("the evaluation process died; starting another")
            self.pool = None
            return self._process().submit(_evaluate, *arrays).result()

    def _process(self) -> ProcessPoolExecutor:
        if not self.pool:
            arguments = {"mp_context": processes.context(), "initializer": _prepare, "initargs": (self.job.config,)}
            self.pool = ProcessPoolExecutor(1, **arguments)
        return self.pool

    def close(self) -> None:
        """End the process, in the middle of an evaluation if need be."""
        self.closed = True
        if self.pool:
            for process in multiprocessing.active_children():
                process.kill()
            self.pool.shutdown(cancel_futures=True)


_judge: tuple | None = None


def _prepare(config: dict) -> None:
    global _judge
    processes.tie_to_parent()
    os.nice(5)  # training goes first
    job = Job(config)
    torch.set_num_threads(job.threads)
    _judge = job, job.task()


def _evaluate(version: int, params: np.ndarray, buffers: np.ndarray) -> Evaluation:
    job, task = _judge
    return job.evaluate(task, Model(version, torch.from_numpy(params), torch.from_numpy(buffers)))
