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
        own = derived(record, job, way) if row is None else measured(record, job, row)
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
    computed, ended = moments(record, job, row)
    begin = computed - row.compute_s
    rest = meanwhile if record.overlap else thereafter
    return [
        Slice(job.row.worker, COMPUTING, "data", begin - row_data(row), begin, {}),
        Slice(job.row.worker, COMPUTING, "compute", begin, computed, marks(job) | {"loss": row.loss}),
        *rest(record, job, computed, ended),
    ]


def moments(record: Record, job: Job, row: tuple) -> tuple[float, float]:
    """When a job was computed, and when the worker went on."""
    ended = row.time_s + record.shifts[job.row.worker]
    return ended - exchanged(row), ended


def thereafter(record: Record, job: Job, computed: float, ended: float) -> list[Slice]:
    """The update travels, and the worker waits for the answer."""
    arrived = within(job.row.time_s, computed, ended)
    gave = within(answer(record, job), arrived, ended)
    return [
        Slice(job.row.worker, EXCHANGING, "push", computed, arrived, marks(job)),
        Slice(job.row.worker, EXCHANGING, "wait", arrived, gave, {}),
        Slice(job.row.worker, EXCHANGING, "pull", gave, ended, {}),
    ]


def meanwhile(record: Record, job: Job, computed: float, ended: float) -> list[Slice]:
    """With overlap: the worker waits for the answer to its last update; then this one travels while it computes on.

    When the answer to this one came is on record only if the worker waited for it.
    """
    arrived, after = job.row.time_s, record.later.get(job.index)
    sent = min(ended, arrived)  # the server may be faster than the worker's look at the clock
    slices = [
        Slice(job.row.worker, COMPUTING, "wait", computed, sent, {}),
        Slice(job.row.worker, EXCHANGING, "push", sent, arrived, marks(job)),
    ]
    if after and (row := record.round(after)):
        ready, came = moments(record, after, row)
        came = max(min(came, after.row.time_s), arrived)
        gave = within(answer(record, job), arrived, came)
        slices.append(Slice(job.row.worker, EXCHANGING, "wait", arrived, gave, {}))
        if gave > ready:
            slices.append(Slice(job.row.worker, EXCHANGING, "pull", gave, came, {}))
    return slices


def marks(job: Job) -> dict:
    return {"version": job.version, "round": job.row.round}


def answer(record: Record, job: Job) -> float:
    """When the server answered the job's push: with the model of a later job; at the end, with none."""
    after = record.next.get(job.index)
    if after is None:
        return record.events[-1].time_s
    return record.end_of(after.asked if after.dropped else after.given)


class Way(NamedTuple):
    """Virtual seconds of a job, as the engine has drawn them: of the answer before it, of its update, of computing."""

    down: float = 0.0
    up: float = 0.0
    compute: float = inf  # where the rest of the time is meant
    before: float = 0.0  # ``up`` of the worker's last update


class Ways:
    """The ways of all jobs, which are asked for in the order of arrival."""

    def __init__(self, record: Record):
        self.record, self.draws, self.last = record, {}, {}

    def of(self, job: Job) -> Way:
        """A job that was dropped before has drawn as well."""
        if self.record.timing is None:
            return Way()
        for _ in range(job.dropped):
            self._next(job)
        way = self.last[job.row.worker] = self._next(job)
        return way

    def _next(self, job: Job) -> Way:
        worker = job.row.worker
        if worker not in self.draws:
            links = [self._stream(job, *each) for each in self.record.timing.links.items()]
            self.draws[worker] = [*links, self.record.timing.compute_draws(worker)]
        down, up, seconds = (0.0 if draws is None else next(draws) for draws in self.draws[worker])
        compute = seconds * self._steps(job) if self.record.overlap else inf
        return Way(down, up, compute, self.last[worker].up if worker in self.last else 0.0)

    def _steps(self, job: Job) -> int:
        return -(-(job.row.samples or 1) // self.record.config["dataset"]["batch_size"])

    def _stream(self, job: Job, name: str, link):
        size = job.row.bytes if name == "uplink" else self.record.model_bytes
        return link.draws(self.record.timing.seed, name, job.row.worker, size)


def derived(record: Record, job: Job, way: Way) -> list[Slice]:
    """A round of which the worker has left no record: in virtual time computing lasts as long as no message travels.

    With overlap it begins when the last update was sent, and the worker then waits for the answer to that.
    """
    asked, given = record.events[job.asked], answered(record, job)
    pulled = min(given + way.down, job.row.time_s)
    sent = max(pulled, job.row.time_s - way.up)
    begin = min(asked.time_s - way.before, sent) if record.overlap and asked.event == "push" else pulled
    computed = within(begin + way.compute, begin, sent)
    held = (COMPUTING, "dropped") if job.dropped else (EXCHANGING, "wait")
    parts = [
        (*held, asked.time_s, given, {}),
        (EXCHANGING, "pull", given, pulled, {}),
        (COMPUTING, "compute" if record.virtual else "round", begin, computed, marks(job) | {"loss": job.row.loss}),
        (COMPUTING, "wait", computed, sent, {}),
        (EXCHANGING, "push", sent, job.row.time_s, marks(job)),
    ]
    return [Slice(job.row.worker, *part) for part in parts if part[3] > part[2] or "loss" in part[4]]


def answered(record: Record, job: Job) -> float:
    """When the worker was given a model for its last event before the push; at once, where nobody computed on it."""
    on_it = record.next.get(job.asked)
    return record.events[job.asked if on_it is None else on_it.given].time_s


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
