"""Observers: they write down what happened. The server calls ``event`` for each arrival, ``version`` for each step."""

from collections.abc import Callable
from pathlib import Path

from asgd.messages import Event
from asgd.records import UPDATES, Table


class Status:
    """The last figures, for the display: ``loss`` and ``staleness`` are running means over some 100 pushes."""

    MEMORY = 100

    def __init__(self):
        self.pushes, self.loss, self.staleness = 0, None, 0.0

    def event(self, event: Event) -> None:
        if event.event != "push" or not event.applied:
            return
        self.pushes += 1
        share = 1 / min(self.pushes, self.MEMORY)
        if event.loss is not None:
            self.loss = event.loss if self.loss is None else self.loss + share * (event.loss - self.loss)
        self.staleness += share * (event.staleness - self.staleness)


class UpdateLog:
    """``updates.csv``: one row per event, in the order of arrival, each at once. ``rows`` includes those of before."""

    def __init__(self, folder: Path, rows: int = 0):
        self.table, self.rows, self.status = Table(folder / "updates.csv", UPDATES), rows, Status()

    def event(self, event: Event) -> None:
        self.table.write(event)
        self.status.event(event)
        self.rows += 1

    def version(self, server, now: float) -> None:
        pass

    def flush(self) -> None:
        self.table.flush()


class BufferedLog(UpdateLog):
    """The same rows, written together at each ``flush``: for virtual time, where thousands come in a moment."""

    ROW = ",".join(["%s"] * len(UPDATES)) + "\n"  # as the csv module writes numbers and names, in less time

    def __init__(self, folder: Path, rows: int = 0):
        super().__init__(folder, rows)
        self.pending: list[Event] = []
        self.event = self.pending.append

    def flush(self) -> None:
        self.table.file.write("".join(map(self.ROW.__mod__, self.pending)).replace("None", ""))
        for event in self.pending[-Status.MEMORY :]:
            self.status.event(event)
        self.rows += len(self.pending)
        self.pending.clear()
        super().flush()


class Every:
    """Calls ``action(server, now)`` at each version that ``every`` divides; 0 never does."""

    def __init__(self, every: int, action: Callable):
        self.every, self.action = every, action

    def event(self, event: Event) -> None:
        pass

    def version(self, server, now: float) -> None:
        if self.every and server.version % self.every == 0:
            self.action(server, now)
