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


def jobs(events: pd.DataFrame, overlap: bool = False) -> pd.DataFrame:
    """The rounds of all workers, one row for each push, in the order of arrival; ``events`` is a table of ``updates``.

    Columns ``worker``, ``round`` and ``version`` (what was computed on), and in seconds ``asked`` (by its join or push
    before), ``began`` (it was given that model) and ``ended``: it waits between the first two, and computes and sends
    between the last two. ``asked_at``, ``began_at`` and ``ended_at`` are the numbers of those events' rows;
    ``dropped``: it worked on an older model before it ``began``, which was cancelled. ``source_at`` and ``given_at``
    are the rows of the join or push that the model was the answer to, and with which it was given: those of ``asked``
    and ``began``.

    Not so with ``overlap`` (``worker.overlap``), where a model answers the push before the last one and is there when a
    worker begins, which it does as soon as it has sent its last update: so it ``began`` when it ``asked``, and what it
    waits for an answer before it sends is not told from computing.

    Whoever asks goes on at once, or there is one more that waits after that row: for its model, which comes with the
    first row of that version, or, where that is an old one, at the latest with the first row after which nobody waits.
    """
    rows = events.reset_index(drop=True)
    asks = rows[rows.event.isin(["join", "push"])]
    before = asks.assign(at=asks.index).groupby("worker")["at"].shift()
    pushes = asks[(asks.event == "push") & before.notna()]
    asked, ended = before[pushes.index].to_numpy(dtype=int), pushes.index.to_numpy()
    version = (rows.version.shift(fill_value=0)[ended] - pushes.staleness).to_numpy(dtype=int)
    source = answered(asks)[pushes.index].to_numpy(dtype=int) if overlap else asked
    gave, dropped = given(rows, source, ended, version)
    numbers = {"asked_at": asked, "began_at": np.maximum(asked, gave), "ended_at": ended, "dropped": dropped}
    times = {name: rows.time_s.to_numpy()[numbers[f"{name}_at"]] for name in ("asked", "began", "ended")}
    who = {"worker": pushes.worker.to_numpy(), "round": pushes["round"].to_numpy(), "version": version}
    return pd.DataFrame(who | times | numbers | {"source_at": source, "given_at": gave})


def answered(asks: pd.DataFrame) -> pd.Series:
    """With overlap: the join or push whose answer each was computed on, two before in its life, or the life's join."""
    life = asks.event.eq("join").groupby(asks.worker).cumsum()
    at = asks.assign(at=asks.index, life=life).groupby(["worker", "life"])["at"]
    return at.shift(2).fillna(at.transform("first"))


def given(rows: pd.DataFrame, asked: np.ndarray, ended: np.ndarray, version: np.ndarray) -> tuple:
    """(rows with which workers were given a ``version``, whether they worked on an older one before)."""
    new, free = np.searchsorted(rows.version, version), np.flatnonzero(rows.waiting == 0)
    at_once = (rows.waiting <= rows.waiting.shift(fill_value=0)).to_numpy()[asked]  # or one more would wait
    freed = np.append(free, len(rows))[np.searchsorted(free, asked)]
    old = np.where(at_once | (freed >= ended), asked, freed)
    return np.where(new > asked, new, old), (new > asked) & at_once
