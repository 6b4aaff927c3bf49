"""The audit at the end of a run: laws that its own ``updates.csv`` must obey, as integers.

Conservation of staleness: each step of the server ages every job in flight by one, and a job takes its age along when
it ends, be it pushed, cancelled or lost with its worker. So the ages of all ended jobs plus those of the jobs still in
flight equal the number of jobs that were in flight, summed over the steps. With N workers that never wait that is
N - 1 for each of U steps: the mean staleness of asynchronous SGD tends to N - 1 whatever the speeds (an exact form of
a remark in Koloskova, Stich, Jaggi, NeurIPS 2022, arXiv:2206.08307). With K updates per step it is U (N - 1) where
nobody waits, and U (N - K) where K workers wait for the step (K-async). Workers that compute while their last update
travels (``asgd.overlap``) have two jobs each, one while they wait: 2 N - 1 for each of U steps. There, what a worker
that waits computes meanwhile is lost when it leaves; the ledger keeps its age, for such a row has none.
"""

from pathlib import Path

import pandas as pd

from asgd import results
from asgd.server import Server


class Broken(RuntimeError):
    """A run's own records contradict each other."""


def check(folder: Path, server: Server) -> None:
    """Broken unless the records of the run in ``folder`` obey every law that its method allows."""
    table = results.updates(folder)
    steps = table.version.diff().fillna(table.version)
    demand("the clock never goes back", not (table.time_s.diff() < 0).any())
    demand("staleness is never negative", not (table.staleness < 0).any())
    demand("a version follows the one before", steps.isin((0, 1)).all())
    pushes = table[table.event == "push"]
    demand("every push is counted once", len(pushes) == sum(map(server.counts.get, FATES)))
    demand("what was applied is counted", (pushes.applied == 1).sum() == server.counts["applied"])
    demand("samples are counted", pushes.samples[pushes.applied == 1].sum() == server.samples)
    if server.reads is None:  # else workers are given copies that are older than they need be
        ended, in_flight, aged = conservation(table, server)
        law = f"ages of ended jobs {ended} + in flight {in_flight} = jobs in flight over all steps {aged}"
        demand(f"conservation of staleness: {law}", ended + in_flight == aged)


FATES = ("applied", "dropped", "nonfinite", "late", "outdated", "oversized")


def demand(law: str, holds: bool) -> None:
    if not holds:
        raise Broken(f"audit: this law is broken in updates.csv: {law}; please report it with the run's folder")


def conservation(table: pd.DataFrame, server: Server) -> tuple[int, int, int]:
    """(ages of ended jobs, ages of jobs in flight, jobs in flight summed over the steps), since the last restart."""
    start = restarts(table)[-1]
    before = table.version.shift(fill_value=0)
    table, stepped = table[start:], (table.version > before)[start:]
    comes = table.event == "join"
    goes = (table.event == "leave") & ~first_of_worker(table)
    came_to_wait = comes | (table.event == "push")
    stopped_waiting = goes & table.staleness.isna()
    active = comes.cumsum() - goes.cumsum()
    waiting = table.waiting.shift(fill_value=0) + came_to_wait - stopped_waiting  # before anybody is answered
    jobs = active * server.ledger.jobs - waiting  # a worker that waits has one less
    return int(table.staleness.sum()), server.ledger.in_flight(server.version), int(jobs[stepped].sum())


def first_of_worker(table: pd.DataFrame) -> pd.Series:
    """Rows with which a worker appears for the first time."""
    return ~table.worker.duplicated() & table.worker.notna()


def restarts(table: pd.DataFrame) -> list[int]:
    """The rows at which the server began: 0, and where the run was resumed.

    There, a worker joins that had not left, or all have worked and left before the first one joins.
    """
    rows, here = [0], set()
    membership = table[table.event.isin(("join", "leave"))]
    for row, event, worker in zip(membership.index, membership.event, membership.worker, strict=True):
        if event == "join" and (worker in here or (not here and (table.event[rows[-1] : row] == "push").any())):
            rows.append(first_join(table.event, row))
            here = set(table.worker[rows[-1] : row])
        (here.add if event == "join" else here.discard)(worker)
    return rows


def first_join(events: pd.Series, row: int) -> int:
    """Where the joins begin that lead up to ``row``."""
    while row > 0 and events[row - 1] == "join":
        row -= 1
    return row
