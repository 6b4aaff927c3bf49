"""The tables of run folders: of one run, or of all runs in a table of runs, one below the other.

Each function takes a run's folder, or a table of runs (from ``load``), and then puts a column ``folder`` first, by
which rows find their run: ``curves.merge(runs[["folder", "workers"]], on="folder")``. A table that a run has not begun
is empty; FileNotFoundError for a folder without a run. Columns are explained in docs/design.md, section 7.
"""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pandas as pd

from asgd.records import EVALUATION, METRICS, SYSTEM, UPDATES
from asgd.results.files import read, read_large
from asgd.results.folders import Place

Runs = Place | pd.DataFrame
TEXT = ("event", "node", "folder")


def updates(runs: Runs) -> pd.DataFrame:
    """The server's events, one row each, in the order of arrival. Of large tables a copy is kept beside the file."""
    return of_each(runs, events)


def evaluation(runs: Runs) -> pd.DataFrame:
    """The evaluations on the validation set."""
    return of_each(runs, lambda run: one(run, run / "stats/ps/evaluation.csv", EVALUATION))


def metrics(runs: Runs) -> pd.DataFrame:
    """The rounds of all workers, with a column ``worker``; empty for virtual time, where ``updates`` has them."""
    return of_each(runs, rounds)


def system_stats(runs: Runs) -> pd.DataFrame:
    """What the processes of all nodes used, once a second, with a column ``node``."""
    return of_each(runs, usage)


def of_each(runs: Runs, table: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    if not isinstance(runs, pd.DataFrame):
        return table(Path(runs))
    tables = {str(folder): table(Path(folder)) for folder in runs.folder}
    keyed = [each.assign(folder=folder)[["folder", *each]] for folder, each in tables.items()]
    full = [each for each in keyed if len(each)] or keyed[:1]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=["folder"])


def events(run: Path) -> pd.DataFrame:
    over = (run / "summary.json").exists()
    return one(run, run / "stats/ps/updates.csv", UPDATES, lambda path: read_large(path, over))


def one(run: Path, path: Path, columns: list[str], reader: Callable[[Path], pd.DataFrame] = read) -> pd.DataFrame:
    """A table of a run; empty where the run has not come to it."""
    try:
        return reader(path)
    except FileNotFoundError:
        if not (run / "parameters.json").exists():
            raise
    except pd.errors.EmptyDataError:  # not even a whole header
        pass
    return empty(columns)


def rounds(run: Path) -> pd.DataFrame:
    paths = sorted(run.glob("stats/worker*/training_metrics.csv"), key=rank)
    tables = [one(run, path, METRICS).assign(worker=rank(path)) for path in paths]
    return joined(tables, [*METRICS, "worker"])


def rank(path: Path) -> int:
    """Of the worker whose folder a file lies in."""
    return int(path.parent.name.removeprefix("worker"))


def usage(run: Path) -> pd.DataFrame:
    paths = sorted(run.glob("stats/*/system_stats.csv"))
    tables = [one(run, path, SYSTEM).assign(node=path.parent.name) for path in paths]
    return joined(tables, [*SYSTEM, "node"])


def joined(tables: Iterable[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else empty(columns)


def empty(columns: list[str]) -> pd.DataFrame:
    return blank(tuple(columns)).copy()


@cache
def blank(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=str if name in TEXT else float) for name in columns})
