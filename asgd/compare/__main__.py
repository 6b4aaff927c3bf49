"""``python -m asgd.compare FOLDER...``: what a person types, and the files that are written."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from rich import get_console
from rich.progress import track

from asgd import words
from asgd.compare.collect import Comparison, collect
from asgd.results import AXES

USAGE = "python -m asgd.compare FOLDER... [x=updates] [group=topology,workers] [target=0.9] [objective=...] [out=...]"
FEW = 20  # runs are read before anybody could see a bar


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    folders: tuple[str, ...] = words.places("run folders, folders of such (a sweep), or patterns: 'outputs/*/3'")
    x: str = words.option(f"the first x axis: {', '.join(AXES)}", default="updates")
    group: str | None = words.option(
        "options by which curves are grouped, or runs; null: all that differ", default=None
    )
    target: float | None = words.option("an accuracy; null: 95 % of the best", default=None)
    objective: str | None = words.option("a figure of summary.json to sort by; null: the runs' own", default=None)
    out: str | None = words.option(
        "a folder; null: FOLDER/comparison, or of several outputs/comparisons/<date>", default=None
    )

    def __post_init__(self):
        if not self.folders:
            raise ValueError(f"no folder; {USAGE}")
        if self.x not in AXES:
            raise ValueError(f"x={self.x}: one of {', '.join(AXES)}{words.closest(self.x, list(AXES))}")
        if self.target is not None and not 0 < self.target <= 1:
            raise ValueError(f"target={self.target}: an accuracy, more than 0 and at most 1")


def main(given: Options) -> None:
    """Read, draw, write, and say where."""
    drawing = drawer()
    comparison = collect(given.folders, given.group, given.target, given.objective, followed)
    out = place(given)
    out.mkdir(parents=True, exist_ok=True)
    table(comparison).to_csv(out / "runs.csv", index=False)
    drawing.figures(comparison, out / "figures")
    (out / "comparison.html").write_text(drawing.page(comparison, given.x, out), encoding="utf-8")
    get_console().print(told(comparison, out), markup=False, highlight=False, soft_wrap=True)


def drawer():
    """What needs the libraries of the extra. ValueError where they are missing."""
    try:
        from asgd.compare import drawing
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'asgd[plot]'") from error
    return drawing


def followed(runs: list) -> Iterable:
    """With a progress bar where there are many."""
    return track(runs, "reading", console=get_console(), transient=True) if len(runs) > FEW else runs


def place(given: Options) -> Path:
    """The folder for what is written: beside the runs, if they lie in one place that can be written to."""
    if given.out is not None:
        return Path(given.out)
    only = Path(given.folders[0])
    if len(given.folders) == 1 and only.is_dir() and os.access(only, os.W_OK):
        return only / "comparison"
    return Path("outputs/comparisons") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def table(comparison: Comparison) -> pd.DataFrame:
    """The runs, best first: what differs, the objective and the state, then all the rest."""
    first = dict.fromkeys([*comparison.keys, comparison.objective, "state", "folder"])
    return comparison.runs[[*first, *(name for name in comparison.runs if name not in first)]]


def told(comparison: Comparison, out: Path) -> str:
    """What was found, for the terminal."""
    runs, differing = comparison.runs, ", ".join(comparison.keys) or "no option"
    states = ", ".join(f"{count} {state}" for state, count in comparison.runs.state.value_counts().items())
    return "\n".join(
        (
            f"{len(runs)} run{'s' * (len(runs) != 1)} ({states})",
            f"they differ in: {differing}; sorted by {comparison.objective}",
            f"page: {out / 'comparison.html'}",
            f"table: {out / 'runs.csv'}, figures: {out / 'figures'}",
        )
    )


if __name__ == "__main__":
    words.main(Options, main, USAGE, "what was written before stays")
