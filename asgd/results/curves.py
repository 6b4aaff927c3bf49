"""Figures of many runs: means over seeds with their intervals, and when a goal was reached."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from asgd.results.jobs import start
from asgd.results.tables import evaluation

AXES = ("seconds", "samples", "updates")


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of all runs, with ``seconds`` of training: ``time_s`` since the first model was given out.

    Real runs begin with the start of their processes, which takes seconds; in virtual time both are the same. ``runs``
    is a table with a column ``folder``, as ``load`` gives it; ``folder`` is the key.
    """
    table = evaluation(runs)
    begins = {folder: start(folder) for folder in table.folder.unique()}
    return table.assign(seconds=table.time_s - table.folder.map(begins).astype(float))


def reached(curves: pd.DataFrame, target: float, figure: str = "accuracy") -> pd.DataFrame:
    """``seconds``, ``samples`` and ``updates`` at the first evaluation that is as good as ``target``, by ``folder``.

    A loss has to be as low, any other figure as high. NaN for a run that never was; one without
    evaluations is missing.
    """
    good = curves[figure] <= target if figure == "loss" else curves[figure] >= target
    first = curves[good].groupby("folder").first()
    return first.reindex(curves.folder.unique())[list(AXES)].rename_axis("folder")


def interval(values: Iterable[float]) -> tuple[float, float, int]:
    """Mean, half the width of its 95 % interval by Student's t, and how many values there are; NaN are left out.

    The interval of a single value is NaN. It assumes that the values are independent, as those of seeds are.
    """
    array = np.asarray([value for value in values if value == value], dtype=float)
    count = len(array)
    if count < 2:
        return (float(array[0]) if count else np.nan), np.nan, count
    return float(array.mean()), float(width(count) * array.std(ddof=1)), count


def width(count: int) -> float:
    """Half the width of the 95 % interval of a mean over ``count`` values (2 or more), in their standard deviations."""
    from scipy.special import stdtrit  # takes longer to import than pandas

    return stdtrit(count - 1, 0.975) / count**0.5


def mean(curves: pd.DataFrame, by: Sequence[str], x: str = "updates", y: str = "loss") -> pd.DataFrame:
    """The mean curve of each group of runs, with its 95 % interval: columns of ``by``, x, y, ``low``, ``high``, ``n``.

    ``curves`` are evaluations with columns ``folder`` and ``by``. Curves are read between their points by straight
    lines, where all runs of the group have one: so every point is a mean over the same ``n`` runs. Leave out runs that
    ended early (``runs.state == "budget"``), or they end their group's curve.
    """
    by, known = list(by), curves.dropna(subset=[x, y])
    groups = known.groupby(by, dropna=False, sort=False) if by else [((), known)] if len(known) else []
    tables = [mean_of(group, x, y).assign(**dict(zip(by, key, strict=True))) for key, group in groups]
    columns = [*by, x, y, "low", "high", "n"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns, dtype=float)


def mean_of(group: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    each = [run.sort_values(x) for _, run in group.groupby("folder", sort=False)]
    first, last = max(run[x].min() for run in each), min(run[x].max() for run in each)
    places = np.unique(np.concatenate([run[x] for run in each]))
    places = places[(places >= first) & (places <= last)]
    values = np.array([np.interp(places, run[x], run[y]) for run in each]).reshape(len(each), len(places))
    half = width(len(each)) * values.std(axis=0, ddof=1) if len(each) > 1 else np.full(len(places), np.nan)
    middle = values.mean(axis=0)
    return pd.DataFrame({x: places, y: middle, "low": middle - half, "high": middle + half, "n": len(each)})
