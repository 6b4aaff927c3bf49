"""What each worker did when, from ``updates.csv`` alone: on any engine, in real and in virtual time."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from asgd.results.folders import Place


def start(folder: Place) -> float:
    """When the first models of a run were given out, in seconds of its tables; NaN before that.

    ``seconds`` of the summary count from there, times in the tables from the start of the server.
    """
    joined = float("nan")
    try:
        with open(Path(folder) / "stats/ps/updates.csv", newline="") as file:
            for row in csv.reader(file):  # the beginning is enough
                if row[1:2] == ["push"]:
                    break
                joined = float(row[0]) if row[1:2] == ["join"] else joined
    except FileNotFoundError:
        pass
    return joined


def start_of(events: pd.DataFrame) -> float:
    """The same from a table of ``updates``: the last join before the first push."""
    pushes = events.event.eq("push").to_numpy()
    before = events[: pushes.argmax() if pushes.any() else len(events)]
    return before.time_s[before.event == "join"].max()


def jobs(events: pd.DataFrame) -> pd.DataFrame:
    """The rounds of all workers, one row for each push, from a table of ``updates``.

    Columns ``worker``, ``round``, and in seconds ``asked`` (its row before), ``began`` (its model was
    there) and ``ended``: it waits between the first two, and computes and sends between the last two. A job begins
    when its worker has asked and its model is there (the first row of that version), but not before the last worker
    has joined for the start.
    """
    model = events.version.shift(fill_value=0) - events.staleness
    chosen = events.event.isin(["join", "push"])
    table = events.loc[chosen, ["worker", "round", "event", "time_s"]]
    asked = table.groupby("worker").time_s.shift()
    there = first_times(events, model[chosen])
    began = np.maximum(np.maximum(asked, there), start_of(events))
    columns = {"worker": table.worker, "round": table["round"], "asked": asked, "began": began, "ended": table.time_s}
    return pd.DataFrame(columns)[table.event != "join"]


def first_times(events: pd.DataFrame, versions: pd.Series) -> pd.Series:
    """When the server first had each of the ``versions``; without a version (a join) the start of the run."""
    rows = np.searchsorted(events.version, versions.fillna(0))
    return pd.Series(events.time_s.to_numpy()[rows], versions.index)
