"""What a comparison shows unless it is told otherwise, and what it can be told."""

from collections.abc import Iterable
from math import floor

import pandas as pd

from asgd import words
from asgd.records import SUMMARY
from asgd.results.variation import is_option, text

SETTINGS = 12  # so many groups can be told apart in one plot
MIXED = "seconds, virtual or real"


def group(runs: pd.DataFrame, keys: list[str], given: str | None) -> list[str] | None:
    """The options by which curves are grouped; None: each run by itself. ValueError for one that is not there.

    ``given`` is ``runs`` or options joined by commas. By default all ``settings``, unless those are more than 12;
    then the first key of them. Without any, all runs are one group.
    """
    if given is None:
        chosen = settings(runs, keys)
        return chosen if len(runs[chosen].map(text).drop_duplicates()) <= SETTINGS else chosen[:1]
    if given == "runs":
        return None
    names = [name.strip() for name in given.split(",")]
    known = [name for name in runs.columns if is_option(name)]
    for name in names:
        check("group", name, known, f"runs, or options such as {', '.join(keys or ['workers', 'topology'])}")
    return names


def settings(runs: pd.DataFrame, keys: list[str]) -> list[str]:
    """The keys but the seed, and of those that always changed together only the first."""
    kept: dict[tuple, str] = {}
    for key in (each for each in keys if each != "seed"):
        kept.setdefault(tuple(pd.factorize(runs[key].map(text))[0]), key)
    return list(kept.values())


def objective(runs: pd.DataFrame, name: str | None) -> str:
    """The figure by which runs are sorted: what most of them were made for. ValueError for one that is not there."""
    if name is not None:
        figures = [each for each in SUMMARY if each != "ended"]
        check("objective", name, figures, ", ".join(figures))
        return name
    known = runs["objective"].dropna() if "objective" in runs else ()
    return known.mode()[0] if len(known) else "final_accuracy"


def check(option: str, name: str, known: Iterable[str], allowed: str) -> None:
    if name not in known:
        raise ValueError(f"{option}={name}: no such name{words.closest(name, list(known))}; {allowed}")


def target(curves: pd.DataFrame, given: float | None) -> float | None:
    """An accuracy to be reached: 95 % of the best, rounded down to whole percents. None where nothing was evaluated."""
    if given is not None:
        return given
    best = curves.accuracy.max()
    return floor(95 * best) / 100 if best == best else None


def unit(runs: pd.DataFrame) -> str:
    """Of what the seconds are: of virtual time, of real time, or of both."""
    engines = runs.get("engine._target_", pd.Series(dtype=str)).dropna().astype(str)
    virtual = engines.str.contains("virtual", case=False)
    if virtual.any() and not virtual.all():
        return MIXED
    return "virtual seconds" if len(virtual) and virtual.all() else "seconds"
