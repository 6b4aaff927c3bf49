"""Observers: they write down what happened. The server calls ``event`` for each arrival, ``version`` for each step."""

from collections.abc import Callable
from pathlib import Path

from asgd.messages import Event
from asgd.records import UPDATES, Table
from asgd.watch.progress import Progress

SHOWN = 32  # events of each flush that the display is told of


class UpdateLog:
    """``updates.csv``: one row per event, in the order of arrival, each at once. ``rows`` includes those of before.

    ``clock`` tells how long the server took for it: from the time of the event to here, where its replies are ready.
    """

    def __init__(self, folder: Path, rows: int = 0, clock: Callable[[], float] | None = None):
        self.table, self.rows, self.progress = Table(folder / "updates.csv", UPDATES), rows, Progress()
        self.clock = clock

    def event(self, event: Event) -> None:
        took = self.clock() - event.time_s if self.clock else None
        self.table.write((*event, took))
        self.progress.event(event)
        self.progress.apply.add(took)
        self.rows += 1

    def version(self, server, now: float) -> None:
        pass

    def flush(self) -> None:
        self.table.flush()


class BufferedLog(UpdateLog):
    """The same rows, written together at each ``flush``: for virtual time, where thousands come in a moment.

    The server takes no time there. The display is told of the last of them.
    """

    ROW = ",".join(["%s"] * len(Event._fields)) + ",\n"  # as the csv module writes numbers and names, in less time

    def __init__(self, folder: Path, rows: int = 0, clock: Callable[[], float] | None = None):
        super().__init__(folder, rows)
        self.pending: list[Event] = []
        self.event = self.pending.append

    def flush(self) -> None:
        self.table.file.write("".join(map(self.ROW.__mod__, self.pending)).replace("None", ""))
        for event in self.pending[-SHOWN:]:
            self.progress.event(event)
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
