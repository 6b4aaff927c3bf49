"""What every node of a run did when, from the run's tables.

The server's table says when it took up each arrival and for how long; a worker's own how long it computed and waited,
by the same clock. In virtual time there is only the former, and ``timing`` says how long messages were on their way.
"""

from math import inf
from typing import NamedTuple

from asgd.trace.record import Job, Record, exchanged, row_data, within

SERVER = 0
MOMENT = 2e-9  # seconds
SERVING, COMPUTING, EXCHANGING = "serving", "computing", "exchanging"  # tracks


class Slice(NamedTuple):
    """``node`` (0 is the server, others are workers) does ``name`` from ``begin`` to ``end`` [s], on one ``track``."""

    node: int
    track: str
    name: str
    begin: float
    end: float
    facts: dict


class Arrow(NamedTuple):
    """From a moment in one slice to a moment in another, each as (node, track, time)."""

    name: str
    source: tuple[int, str, float]
    target: tuple[int, str, float]


def timeline(record: Record, start: float = -inf, stop: float = inf) -> tuple[list[Slice], list[Arrow]]:
    """The slices and arrows of jobs that overlap the time from ``start`` to ``stop`` [s], and all of the server's.

    On each track no slice overlaps another, but for rounding.
    """
    served, ways = serving(record), Ways(record)
    slices, arrows = list(served), []
    for job in record.jobs:
        way = ways.of(job)
        if job.row.time_s < start or record.events[job.asked].time_s > stop:
            continue
        row = record.round(job)
        own = derived(record, job, *way) if row is None else measured(record, job, row)
        slices += own
        arrows += arrows_of(job, own, served)
    return slices, arrows


# The server


def serving(record: Record) -> list[Slice]:
    """A slice for each event. In virtual time ``timing.service`` ends with it, on real engines it began with it."""
    draws = record.timing.service_draws() if record.timing else None
    slices, free = [], 0.0
    for index, row in enumerate(record.events):
        end = record.end_of(index)
        spent = next(draws) if draws and row.event == "push" else 0.0
        begin = max(row.time_s - spent, free) if spent else row.time_s
        slices.append(Slice(SERVER, SERVING, deed(row), begin, end, facts(row)))
        free = end
    return slices


def deed(row: tuple) -> str:
    """What the server did: ``apply`` or ``discard`` of a push, else the event."""
    return row.event if row.event != "push" else "apply" if row.applied else "discard"


def facts(row: tuple) -> dict:
    names = ("worker", "round", "version", "staleness", "loss", "waiting", "bytes")
    return {name: value for name in names if (value := getattr(row, name, None)) is not None}


# A worker


def measured(record: Record, job: Job, row: tuple) -> list[Slice]:
    """A round as the worker has recorded it: it waits for data, computes, and waits while the server has its turn."""
    ended = row.time_s + record.shifts[job.row.worker]
    data, computed = row_data(row), ended - exchanged(row)
    begin = computed - row.compute_s
    arrived = within(job.row.time_s, computed, ended)
    answered = within(answer(record, job), arrived, ended)
    worker, marks = job.row.worker, {"version": job.version, "round": job.row.round}
    return [
        Slice(worker, COMPUTING, "data", begin - data, begin, {}),
        Slice(worker, COMPUTING, "compute", begin, computed, marks | {"loss": row.loss}),
        Slice(worker, EXCHANGING, "push", computed, arrived, marks),
        Slice(worker, EXCHANGING, "wait", arrived, answered, {}),
        Slice(worker, EXCHANGING, "pull", answered, ended, {}),
    ]


def answer(record: Record, job: Job) -> float:
    """When the server answered the job's push: with the model of the worker's next job; at the end, with none."""
    after = record.next.get(job.index)
    if after is None:
        return record.events[-1].time_s
    return record.end_of(after.asked if after.dropped else after.given)


class Ways:
    """Virtual seconds that the messages of each job are on their way, as the engine has drawn them."""

    def __init__(self, record: Record):
        self.record, self.draws = record, {}

    def of(self, job: Job) -> tuple[float, float]:
        """(down, up). A job that was dropped before has drawn as well."""
        if self.record.timing is None:
            return 0.0, 0.0
        for _ in range(job.dropped):
            self._next(job)
        return self._next(job)

    def _next(self, job: Job) -> tuple[float, float]:
        if job.row.worker not in self.draws:
            self.draws[job.row.worker] = [self._stream(job, *each) for each in self.record.timing.links.items()]
        down, up = (0.0 if draws is None else next(draws) for draws in self.draws[job.row.worker])
        return down, up

    def _stream(self, job: Job, name: str, link):
        size = job.row.bytes if name == "uplink" else self.record.model_bytes
        return link.draws(self.record.timing.seed, name, job.row.worker, size)


def derived(record: Record, job: Job, down: float, up: float) -> list[Slice]:
    """A round of which the worker has left no record: in virtual time computing lasts as long as no message travels.

    ``down`` and ``up``: seconds that its messages took.
    """
    events, marks = record.events, {"version": job.version, "round": job.row.round}
    asked, given = (events[index].time_s for index in (job.asked, job.given))
    pulled = min(given + down, job.row.time_s)
    sent = max(pulled, job.row.time_s - up)
    held = (COMPUTING, "dropped") if job.dropped else (EXCHANGING, "wait")
    parts = [
        (*held, asked, given, {}),
        (EXCHANGING, "pull", given, pulled, {}),
        (COMPUTING, "compute" if record.virtual else "round", pulled, sent, marks | {"loss": job.row.loss}),
        (EXCHANGING, "push", sent, job.row.time_s, marks),
    ]
    return [Slice(job.row.worker, *part) for part in parts if part[3] > part[2] or "loss" in part[4]]


# Versions and updates on their way


def arrows_of(job: Job, own: list[Slice], served: list[Slice]) -> list[Arrow]:
    """From the server's slice that gave the model to the computing on it; from there to the slice that took it."""
    work = next(each for each in own if each.name in ("compute", "round"))
    sent = next((each for each in own if each.name == "push"), work)
    gave, took = served[job.given], served[job.index]
    return [
        Arrow("version", (SERVER, SERVING, first_moment(gave)), (work.node, work.track, first_moment(work))),
        Arrow("push", (sent.node, sent.track, last_moment(sent)), (SERVER, SERVING, first_moment(took))),
    ]


def first_moment(each: Slice) -> float:
    """One that is not of the slice before as well, which may end as this one begins."""
    return min(each.begin + MOMENT, each.end)


def last_moment(each: Slice) -> float:
    return max(each.end - MOMENT, each.begin)
