"""What is on record of a run: the server's events, the workers' rounds, and which job each of these belongs to."""

import json
from functools import cached_property
from math import inf
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asgd import results
from asgd.timing import Timing
from asgd.watch.tails import Tail


class Job(NamedTuple):
    """What a worker did from a model to its push. Numbers are indices of events; ``row`` is that of the push.

    The model of ``version`` was ``given`` with one event in answer to another, the ``source``, or to the same. The
    worker ``asked`` with its last event before the push: the source, but for workers that overlap. ``dropped``: in
    between it worked on an older model, which was cancelled.
    """

    row: tuple
    index: int
    version: int
    asked: int
    source: int
    given: int
    dropped: bool


class Record:
    """The tables of the run in a ``folder``. ValueError where its server has written none."""

    def __init__(self, folder: Path):
        self.events = list(Tail(folder / "stats/ps/updates.csv").rows())
        if not self.events or not (folder / "parameters.json").exists():
            raise ValueError(f"{folder}: no run there that has a parameters.json and events in stats/ps/updates.csv")
        parameters = json.loads((folder / "parameters.json").read_text())
        self.config, self.model_bytes = parameters["config"], parameters["bytes_per_update"]
        tables = {path.parent.name: path for path in sorted(folder.glob("stats/worker*/training_metrics.csv"))}
        self.rounds = {int(name.removeprefix("worker")): list(Tail(path).rows()) for name, path in tables.items()}
        self.overlap = results.overlaps(folder)
        self.jobs = jobs_of(self.events, self.overlap)
        self.next = {job.source: job for job in self.jobs}  # by the event whose answer it was computed on
        self.later = {job.asked: job for job in self.jobs}  # by the worker's event before its push
        self.shifts = shifts(self)

    @property
    def virtual(self) -> bool:
        return self.config["engine"]["_target_"].endswith("VirtualEngine")

    @cached_property
    def timing(self) -> Timing | None:
        """The delays of a run in virtual time; elsewhere workers have slept them."""
        return instantiate(OmegaConf.create(self.config["timing"]), _convert_="all") if self.virtual else None

    def round(self, job: Job) -> tuple | None:
        """The worker's own row of a job."""
        rows = self.rounds.get(job.row.worker, ())
        return rows[job.row.round] if job.row.round < len(rows) else None

    def end_of(self, index: int) -> float:
        """When the server was done with an event."""
        return self.events[index].time_s + (getattr(self.events[index], "apply_s", None) or 0.0)


def jobs_of(events: list[tuple], overlap: bool) -> list[Job]:
    """Every push of a worker that had asked, in the order of arrival."""
    table = results.jobs(pd.DataFrame(events), overlap)
    columns = table[["ended_at", "version", "asked_at", "source_at", "given_at", "dropped"]]
    return [Job(events[at], at, *others) for at, *others in columns.itertuples(index=False, name=None)]


def row_data(row: tuple) -> float:
    """Seconds of a round in which data were waited for; tables of before have no such column."""
    return getattr(row, "data_s", None) or 0.0


def exchanged(row: tuple) -> float:
    """Seconds from the end of computing to the reply."""
    return row.wait_s - row_data(row)


def shifts(record: Record) -> dict[int, float]:
    """Seconds to add to each worker's times: the least with which no update is taken up before it is computed, and no
    reply comes before the server is done. A worker's clock was set by one message, so it is late by that one's way.
    """
    least, most = dict.fromkeys(record.rounds, -inf), dict.fromkeys(record.rounds, inf)
    for job in record.jobs:
        if row := record.round(job):
            worker, computed = job.row.worker, row.time_s - exchanged(row)
            replied = job.asked if record.overlap else job.index  # with overlap, to the update before
            least[worker] = max(least[worker], record.end_of(replied) - row.time_s)
            most[worker] = min(most[worker], job.row.time_s - computed)
    return {worker: nearest_zero(least[worker], most[worker]) for worker in record.rounds}


def nearest_zero(least: float, most: float) -> float:
    """Between both; clocks that have drifted apart leave nothing between, and are wrong by as much on each side."""
    return within(0.0, least, most) if least <= most else (least + most) / 2


def within(time: float, least: float, most: float) -> float:
    return min(max(time, least), most)
