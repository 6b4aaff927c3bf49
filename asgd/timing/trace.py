"""The delay model that repeats a recorded run."""

from collections.abc import Iterator
from itertools import chain, repeat
from math import inf
from pathlib import Path

import pandas as pd

from asgd import results
from asgd.timing.delays import Delay


class Trace(Delay):
    """Each worker's seconds from model to push, as the ``updates.csv`` of a run ``folder`` has them.

    So a simulation of the same configuration has the same order of arrival. A round of several ``steps`` shares its
    seconds among them. After its last recorded job a worker never comes back: ``inf``. ValueError without a recorded
    run, for one with cancelled work (how long that would have taken is not on record), and for a worker that took no
    part in it.
    """

    def __init__(self, folder: str | Path, steps: int = 1):
        if folder is None:
            raise ValueError(f"timing.compute.folder={folder}: the folder of a recorded run")
        if steps < 1:
            raise ValueError(f"timing.compute.steps={steps}: batches in each recorded round, 1 or more")
        self.folder = folder
        try:
            events, overlap = results.updates(folder), results.overlaps(folder)
        except FileNotFoundError as error:
            raise ValueError(
                f"timing.compute.folder={folder}: no recorded run ({error.filename} is missing)"
            ) from error
        if (events.event == "cancel").any():
            raise ValueError(f"timing.compute.folder={folder}: workers dropped work there; give a run without")
        self.jobs = durations(events, steps, overlap)

    def of(self, worker: int) -> list[float]:
        if worker not in self.jobs:
            recorded = f"workers {min(self.jobs, default=None)} to {max(self.jobs, default=None)}"
            raise ValueError(f"timing.compute.folder={self.folder}: has {recorded}, and nothing of worker {worker}")
        return self.jobs[worker]

    def mean(self, seed: int, worker: int) -> float:
        """The mean over the jobs that ended; inf without any."""
        ended = [each for each in self.of(worker) if each < inf]
        return sum(ended) / len(ended) if ended else inf

    def draws(self, seed: int, purpose: str, worker: int, start: int = 0) -> Iterator[float]:
        return chain(self.of(worker)[start:], repeat(inf))


def durations(events: pd.DataFrame, steps: int, overlap: bool = False) -> dict[int, list[float]]:
    """worker -> seconds per step of each of its jobs, in order; ``events`` are the rows of ``updates.csv``."""
    table = results.jobs(events, overlap)
    seconds = table.assign(seconds=(table.ended - table.began) / steps).groupby("worker").seconds.agg(list).to_dict()
    return {int(worker): seconds.get(worker, []) for worker in events.worker.dropna().unique()}
