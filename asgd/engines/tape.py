"""The record of a run, to be repeated event by event: its ``updates.csv``, and how it ended."""

import csv
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from asgd import audit, results
from asgd.messages import Event
from asgd.records import UPDATES

KINDS = (float, str, int, int, int, int, int, float, float, int, int, int)  # of an Event's fields


class Tape:
    """The events of the run in ``folder``. ``at`` is the one that is being repeated; ``restarts`` are those before
    which the server was made anew. ``ended``: see ``summary.json``; a run that was killed was interrupted.
    """

    def __init__(self, folder: Path):
        self.folder, self.events = folder, read(folder / "stats/ps/updates.csv")
        self.ended = results.summary(folder)["ended"] if (folder / "summary.json").exists() else "interrupted"
        self.restarts = set(audit.restarts(results.updates(folder))) - {0}
        self.computed = any(event.loss is not None for event in self.events)
        self.at, self.ahead = 0, defaultdict(deque)  # worker: its events to come
        for event in self.events:
            self.ahead[event.worker].append(event)

    def __iter__(self) -> Iterator[Event]:
        for at, event in enumerate(self.events):
            self.at = at
            self.ahead[event.worker].popleft()
            yield event

    @property
    def whole(self) -> bool:
        """Whether the last event has come."""
        return self.at + 1 == len(self.events)

    def coming(self, number: int) -> list[int]:
        """The workers that push next, as far as nobody comes or goes before."""
        workers = []
        for event in self.events[self.at : self.at + number]:
            if event.event != "push":
                break
            workers.append(event.worker)
        return list(dict.fromkeys(workers))

    def stopped(self, worker: int) -> bool:
        """Whether the worker was given no model any more: it leaves next, and without any work."""
        ahead = self.ahead[worker]
        return bool(ahead) and ahead[0].event == "leave" and ahead[0].staleness is None


def read(path: Path) -> list[Event]:
    """The rows of ``updates.csv``, but for a torn last one. ValueError without any, and for one that is no event."""
    with open(path, newline="") as file:
        rows = list(csv.reader(line for line in file if line.endswith("\n")))[1:]
    if not rows:
        raise ValueError(f"engine.source: {path} has no events to repeat")
    return [event(path, number, row) for number, row in enumerate(rows, start=2)]


def event(path: Path, number: int, row: list[str]) -> Event:
    """A row, which in older records has no ``bytes``; how long the server took is not repeated."""
    try:
        if not len(KINDS) - 1 <= len(row) <= len(UPDATES):
            raise ValueError
        return Event(*(kind(text) if text else None for kind, text in zip(KINDS, row, strict=False)))
    except ValueError as error:
        raise ValueError(f"engine.source: row {number} of {path} is no event: {','.join(row)}") from error
