"""Who was given which model when: the jobs of a run, from the rows of its ``updates.csv`` alone."""

from collections.abc import Iterator
from typing import NamedTuple


class Job(NamedTuple):
    """What a worker did from a model to its push. Numbers are indices of rows; ``row`` is that of the push.

    The worker ``asked`` with one row and was ``given`` the model of ``version`` with another or the same. ``dropped``:
    in between it worked on an older one, which was cancelled.
    """

    row: tuple
    index: int
    version: int
    asked: int
    given: int
    dropped: bool


class Walk:
    """One pass over the rows.

    Whoever asks goes on at once, unless it has to wait: for the model it is given, and that comes with the first row of
    its version; where that is an old one, for the first row after which nobody waits.
    """

    def __init__(self, rows: list[tuple]):
        self.rows = rows
        self.asked: dict[int, int] = {}  # worker: the row in which it asked
        self.freed: dict[int, int] = {}  # worker: the first row since, after which nobody waited
        self.there: dict[int, int] = {}  # version: its first row
        self.waiting: list[int] = []

    def __iter__(self) -> Iterator[Job]:
        """Every push of a worker that had asked, in the order of arrival."""
        before = 0
        for index, row in enumerate(self.rows):
            if row.event == "push" and row.worker in self.asked:
                yield self._job(row, index, before - row.staleness)
            if row.event in ("join", "push"):
                self.asked[row.worker] = index
                self.freed.pop(row.worker, None)
                self.waiting.append(row.worker)
            if not row.waiting:
                self.freed.update(dict.fromkeys(self.waiting, index))
                self.waiting.clear()
            self.there.setdefault(row.version, index)
            before = row.version

    def _job(self, row: tuple, index: int, version: int) -> Job:
        asked, given = self.asked[row.worker], self.there.get(version, 0)
        dropped = given > asked and self.freed.get(row.worker) == asked
        if given <= asked:
            given = self.freed.get(row.worker, asked)
        return Job(row, index, version, asked, given, dropped)


def following(jobs: list[Job]) -> dict[int, Job]:
    """The index of a job's push: the same worker's next job."""
    last, after = {}, {}
    for job in jobs:
        if job.row.worker in last:
            after[last[job.row.worker]] = job
        last[job.row.worker] = job.index
    return after
