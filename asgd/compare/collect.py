"""What a comparison shows, read from run folders."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from asgd import results
from asgd.compare import choices
from asgd.records import is_higher_better

UNFINISHED = ("running", "killed")


@dataclass(frozen=True)
class Comparison:
    """``runs``, best first, and their ``curves``, as ``asgd.results`` has them; and what else is drawn of each run.

    ``keys`` are the options in which the runs differ, ``group`` those by which curves are grouped, None for each run
    by itself. ``staleness`` counts the applied updates of each age; ``work`` says how many seconds each worker was
    ``computing``, waiting for ``data`` and ``waiting`` for replies; both have the run's ``folder``. ``target`` is an
    accuracy, None where nothing was evaluated; ``unit`` that of seconds.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    staleness: pd.DataFrame
    work: pd.DataFrame
    keys: list[str]
    group: list[str] | None
    objective: str
    target: float | None
    unit: str


def collect(
    folders: Sequence[str],
    group: str | None = None,
    target: float | None = None,
    objective: str | None = None,
    track: Callable[[list], Iterable] = iter,
) -> Comparison:
    """Read all runs in and below ``folders``; ``track`` wraps the list of runs while they are read.

    ValueError without any run, and for a ``group`` or ``objective`` that is not there (``choices`` says what may be).
    """
    runs = found(folders)
    keys, objective = results.varied(runs), choices.objective(runs, objective)
    group = choices.group(runs, keys, group)
    parts = zip(*map(details, track(list(runs.folder))), strict=True)
    curves, staleness, work = (pd.concat(tables, ignore_index=True) for tables in parts)
    runs = best_first(as_far_as_known(runs, curves), objective)
    return Comparison(
        runs, curves, staleness, work, keys, group, objective, choices.target(curves, target), choices.unit(runs)
    )


def found(folders: Sequence[str]) -> pd.DataFrame:
    try:
        runs = results.load(*folders)
    except FileNotFoundError as error:
        raise ValueError(error) from error
    if not len(runs):
        raise ValueError(f"{' '.join(folders)}: no run there; a run's folder has a parameters.json")
    return runs


def details(folder: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Curves, staleness and work of one run."""
    events, curve = results.updates(folder), results.evaluation(folder)
    curve = curve.assign(seconds=curve.time_s - results.start_of(events))
    ages = events.staleness[(events.event == "push") & (events.applied == 1)].value_counts().sort_index()
    staleness = pd.DataFrame({"staleness": ages.index.astype(int), "updates": ages.to_numpy()})
    tables = curve, staleness, occupation(results.metrics(folder), events, results.overlaps(folder))
    return tuple(table.assign(folder=folder) for table in tables)


def occupation(rounds: pd.DataFrame, events: pd.DataFrame, overlap: bool = False) -> pd.DataFrame:
    """Seconds of each ``worker``: ``computing``, waiting for ``data``, ``waiting`` for the server's replies.

    From the workers' own tables; in virtual time from the server's, where the way of messages counts as computing and
    there are no data to wait for; with ``overlap`` so does what a worker waits.
    """
    if len(rounds):
        worker, computing, data = rounds.worker, rounds.compute_s, rounds.get("data_s", 0.0)
        waiting = rounds.wait_s - data
    else:
        jobs = results.jobs(events, overlap)
        worker, computing, data, waiting = jobs.worker, jobs.ended - jobs.began, 0.0, jobs.began - jobs.asked
    table = pd.DataFrame({"computing": computing, "data": data, "waiting": waiting})
    return table.groupby(worker).sum().reset_index()


def as_far_as_known(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """With the counts of the last evaluation where a run has no summary."""
    last = curves.groupby("folder").last()
    reached = {name: runs[name].fillna(runs.folder.map(last[name])) for name in ("updates", "samples", "seconds")}
    return runs.assign(**reached)


def best_first(runs: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Sorted by the objective; after all others those that are not over."""
    runs = runs.sort_values(objective, ascending=not is_higher_better(objective), na_position="last", kind="stable")
    over = runs.state.isin(UNFINISHED)
    return pd.concat([runs[~over], runs[over]], ignore_index=True)
