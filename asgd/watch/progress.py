"""How a run goes, as its events and tables tell: running means of the server and of each worker.

The server's display is given the events as they come; whoever watches from elsewhere reads them in the run's folder.
"""

from dataclasses import dataclass
from pathlib import Path

from asgd.watch.tails import Tail

MEMORY = 100  # values that a running mean goes over
STEPS = 10_000  # versions whose time is remembered
RECENT = 1 << 16  # bytes of a worker's table between two looks; what is more is left out


class Mean:
    """A running mean: of all values at first, later with the weight 1 / MEMORY for each new one. None before any."""

    __slots__ = ("count", "value")

    def __init__(self):
        self.count, self.value = 0, None

    def add(self, value: float | None) -> None:
        if value is None:
            return
        if self.count < MEMORY:
            self.count += 1
        self.value = value if self.value is None else self.value + (value - self.value) / self.count


class Seen:
    """What is known of one worker. ``last`` is the run's time of its last event, ``updates`` how many it has pushed.

    Means: ``staleness`` and ``samples`` of an update, ``seconds`` from one to the next, ``held`` those until others let
    it go on; and as its own table has them, the seconds of a round that went into computing, waiting for data, and the
    exchange with the server, of which ``held`` is a part.
    """

    __slots__ = ("compute", "data", "exchange", "held", "here", "last", "samples", "seconds", "staleness", "updates")

    def __init__(self):
        self.here, self.last, self.updates = False, None, 0
        self.staleness, self.samples, self.seconds, self.held = Mean(), Mean(), Mean(), Mean()
        self.compute, self.data, self.exchange = Mean(), Mean(), Mean()

    @property
    def rate(self) -> float | None:
        """Samples per second of the run's time."""
        return self.samples.value / self.seconds.value if self.seconds.value else None

    def times(self) -> tuple[float | None, float | None, float | None]:
        """Seconds of a round: computing, waiting (for data and for other workers), exchanging."""
        held, data = self.held.value, self.data.value
        waiting = None if held is data is None else (held or 0.0) + (data or 0.0)
        exchange = self.exchange.value
        return self.compute.value, waiting, None if exchange is None else max(0.0, exchange - (held or 0.0))

    def pushed(self, event, released: float | None) -> None:
        """``released``: when it was given the model that this update was computed on, as far as that is known."""
        rounds = event.round + 1 - self.updates
        if self.last is not None and rounds > 0:
            self.seconds.add((event.time_s - self.last) / rounds)
        if released is not None and self.last is not None:
            self.held.add(max(0.0, released - self.last))
        self.last, self.updates = event.time_s, event.round + 1
        self.staleness.add(event.staleness)
        self.samples.add(event.samples)

    def worked(self, row) -> None:
        """A row of its ``training_metrics.csv``."""
        data = getattr(row, "data_s", None) or 0.0
        self.compute.add(row.compute_s)
        self.data.add(data)
        self.exchange.add(row.wait_s - data)


class Progress:
    """``loss`` and ``staleness`` are those of applied updates, ``apply`` the server's seconds for an event.

    ``begin`` is when the first model was given out, ``judged`` the last evaluation, ``best`` the highest accuracy.
    """

    def __init__(self):
        self.workers: dict[int, Seen] = {}
        self.loss, self.staleness, self.apply = Mean(), Mean(), Mean()
        self.version, self.samples, self.steps = 0, 0, {}
        self.begin = self.time = self.judged = self.best = None

    def event(self, event) -> None:
        """One of ``asgd.messages.Event``, or a row of ``updates.csv``."""
        before, self.version, self.time = self.version, event.version, event.time_s
        if self.version > before:
            self._stepped(event)
        if event.worker is None:
            return
        if (seen := self.workers.get(event.worker)) is None:
            seen = self.workers[event.worker] = Seen()
        if event.event == "push":
            seen.pushed(event, self.steps.get(before - event.staleness))
            if event.applied:
                self._applied(event)
            return
        seen.here, seen.last = event.event == "join", event.time_s
        if self.begin is None and event.event == "join" and not event.waiting:
            self.begin = event.time_s

    def _stepped(self, event) -> None:
        """Remember when the version came: whoever waited for it goes on then."""
        if len(self.steps) > STEPS:
            self.steps.clear()
        self.steps[event.version] = event.time_s

    def _applied(self, event) -> None:
        self.samples += event.samples
        self.loss.add(event.loss)
        self.staleness.add(event.staleness)

    def evaluation(self, row) -> None:
        """A row of ``evaluation.csv``."""
        self.judged = row
        if row.accuracy is not None:
            self.best = row.accuracy if self.best is None else max(self.best, row.accuracy)

    @property
    def here(self) -> int:
        return sum(seen.here for seen in self.workers.values())


class Reading:
    """Brings what the tables of a run's ``folder`` have gained into a ``progress``.

    Of workers' tables no more is read than running means need, so that a look never takes long. ``events``: the
    server's as well, all of them, for those who do not get them otherwise.
    """

    def __init__(self, folder: Path, events: bool = False, progress: Progress | None = None):
        self.folder, self.events, self.progress = folder, events, progress or Progress()
        self.updates, self.evaluations = Tail(folder / "stats/ps/updates.csv"), Tail(folder / "stats/ps/evaluation.csv")
        self.rounds: dict[int, Tail] = {}

    def read(self) -> Progress:
        if self.events and self.updates.replaced():
            self.__init__(self.folder, events=True)
        for row in self.updates.rows() if self.events else ():
            self.progress.event(row)
            self.progress.apply.add(getattr(row, "apply_s", None))
        for row in self.evaluations.rows():
            self.progress.evaluation(row)
        self._find_workers()
        for worker, tail in self.rounds.items():
            for row in tail.rows():
                self.progress.workers.setdefault(worker, Seen()).worked(row)
        return self.progress

    def _find_workers(self) -> None:
        for folder in self.folder.glob("stats/worker*"):
            name = folder.name.removeprefix("worker")
            if name.isdigit() and int(name) not in self.rounds:
                self.rounds[int(name)] = Tail(folder / "training_metrics.csv", RECENT)


@dataclass
class View:
    """A run at one moment. ``rate`` [updates/s] and ``seconds`` so far are of real time, ``now`` of the run's own.

    ``fraction`` of the budget is used; ``alive`` of ``workers`` are there. ``state`` in words: running, ended, silent.
    ``title`` and ``options``: its folder, and those words of the command line that are known.
    """

    title: str
    options: list[str]
    state: str
    updates: int
    rate: float
    seconds: float
    fraction: float
    alive: int
    workers: int
    now: float | None
    progress: Progress
    ended: bool = False
