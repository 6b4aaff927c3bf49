"""What the engines have in common whose workers all live in this process: virtual time and replay."""

import gc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import torch

from asgd.engines import memory, processes
from asgd.engines.base import Clock
from asgd.engines.fleet import Fleet
from asgd.engines.gradients import CHOICES
from asgd.engines.recorder import Recorder
from asgd.evaluations import Inline
from asgd.job import Job, choose
from asgd.observers import BufferedLog


class VirtualClock(Clock):
    """The time of the last arrival, in seconds since the start of the run."""

    def set(self, seconds: float) -> None:
        self.now = seconds

    def __call__(self) -> float:
        return self.now

    @property
    def real(self) -> Clock:
        return Clock()


class InProcessEngine:
    """``gradients``: how they are computed (``asgd.engines.gradients``), at most ``at_once`` in one call."""

    seconds = "virtual s"

    def __init__(self, gradients: str = "auto", at_once: int = 64):
        choose("engine.gradients", gradients, CHOICES)
        if not isinstance(at_once, int) or at_once < 1:
            raise ValueError(f"engine.at_once={at_once}: gradients in one call, a whole number from 1 on")
        self.gradients, self.at_once = gradients, at_once

    def reserve(self, job: Job) -> None:
        """ValueError for what cannot be run on this machine."""
        memory.check(job, self.at_once)

    def run(self, job: Job, folder: Path) -> None:
        """The whole run. The folder then holds ``summary.json``."""
        torch.set_num_threads(job.threads)
        judge = partial(Inline, evaluate=partial(job.evaluate, job.task()))
        recorder = Recorder(job, folder, VirtualClock(), judge, BufferedLog)
        with closing(recorder), processes.catching(recorder.interrupted.set), settled_garbage():
            fleet = self.play(job, recorder)
            recorder.skipped = fleet.skipped
            fleet.close()
            recorder.finish(recorder.server.training_seconds(recorder.clock()))

    def play(self, job: Job, recorder: Recorder) -> Fleet:
        """Bring the run to its end; the workers that took part."""
        raise NotImplementedError


@contextmanager
def settled_garbage() -> Iterator[None]:
    """Let go of the job before, in a sweep; what is left stays, so it need not be looked through again and again.

    Whoever has done this for a longer time, such as the command for all modules, is left to it.
    """
    gc.collect()
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
