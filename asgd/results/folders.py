"""Run folders: which there are below a place, and each as one row of figures."""

import glob
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from asgd.records import SUMMARY, flatten

SILENT_SECONDS = 30  # a run that is alive writes into its folder every second
CHOICES = re.compile(r"^    choices:\n((?: {6}.+\n)+)", re.MULTILINE)  # in Hydra's own record

Place = str | os.PathLike


def summary(folder: Place) -> dict:
    """``summary.json`` of a finished run. FileNotFoundError for one that is not."""
    return json.loads((Path(folder) / "summary.json").read_text())


def parameters(folder: Place) -> dict:
    """``parameters.json``: the resolved configuration and what the run was made with."""
    return json.loads((Path(folder) / "parameters.json").read_text())


def overlaps(folder: Place) -> bool:
    """Whether the run's workers computed while their updates travelled; ``jobs`` wants to know."""
    try:
        return parameters(folder)["config"].get("worker", {}).get("overlap", False)  # older runs have no such option
    except FileNotFoundError:  # tables alone
        return False


def load(*places: Place | Iterable[Place], track: Callable[[list], Iterable] = iter) -> pd.DataFrame:
    """One row per run found in or below the ``places``: folders, patterns such as ``outputs/*/3``, or lists of them.

    Columns, in this order:

    - ``folder``, which is also the key of the curves;
    - ``state``: how the run ended (budget, diverged, interrupted, error), else ``running``, or ``killed`` where its
      folder has been silent for half a minute;
    - the file chosen of each configuration group (``topology``, ``model`` ...), and every option by its dotted name
      (``optimizer.lr``); an option that has the name of a figure of the summary is ``config.<name>``;
    - the figures of the summary, empty for a run without; what else ``parameters.json`` says.

    ``track`` wraps the list of folders while they are read, for a progress bar: ``track=rich.progress.track``.
    FileNotFoundError for a place that does not exist. Without any run the table is empty.
    """
    rows = [row(run) for run in track(list(runs(*places)))]
    table = pd.DataFrame(rows)
    return table if rows else table.reindex(columns=["folder", "state", *SUMMARY])


def runs(*places: Place | Iterable[Place]) -> Iterator[Path]:
    """The run folders in or below the places, each once, those of a place in the order of their numbers."""
    seen = set()
    for folder in (each for place in places for each in folders(place)):
        for run in sorted(below(folder), key=in_order):
            if (place := run.resolve()) not in seen:
                seen.add(place)
                yield run


def folders(place: Place | Iterable[Place]) -> list[Path]:
    """The folders that a word names. FileNotFoundError if there is none."""
    if not isinstance(place, (str, os.PathLike)):
        return [folder for each in place for folder in folders(each)]
    if Path(place).is_dir():
        return [Path(place)]
    found = sorted((Path(each) for each in glob.glob(os.fspath(place), recursive=True)), key=in_order)
    if not any(each.is_dir() for each in found):
        raise FileNotFoundError(f"{place}: no such folder")
    return [each for each in found if each.is_dir()]


def below(folder: Path) -> Iterator[Path]:
    """Every folder with a run, which a ``parameters.json`` marks; what belongs to a run is not looked at."""
    for place, inner, files in os.walk(folder):
        if "parameters.json" in files:
            yield Path(place)
        inner[:] = [name for name in inner if name not in ("stats", "checkpoints", ".hydra")]


def in_order(path: Path) -> list:
    """A key by which folder 2 comes before folder 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def row(run: Path) -> dict:
    """What ``load`` says of one run."""
    told = read(run / "parameters.json")
    config = told.pop("config", {})
    options = {f"config.{name}" if name in SUMMARY else name: value for name, value in flatten(config).items()}
    figures = read(run / "summary.json")
    known = {"folder": str(run), "state": figures.get("ended") or silent(run)}
    reached = {name: figures.get(name) for name in SUMMARY}
    return known | choices(run, config, told) | options | reached | flatten(told)


def read(path: Path) -> dict:
    """A JSON file; empty where there is none, or a run was killed before it was written."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def silent(run: Path) -> str:
    """``running`` or ``killed``, of a run without a summary."""
    files = [run / "parameters.json", *run.glob("stats/*/*.csv")]
    latest = max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
    return "running" if time.time() - latest < SILENT_SECONDS else "killed"


def choices(run: Path, config: dict, told: dict) -> dict:
    """The file chosen of each group; what was typed, where Hydra's record is missing or speaks of a replay."""
    hydra = run / ".hydra/hydra.yaml"
    found = CHOICES.search(hydra.read_text()) if hydra.exists() else None
    if found is None or "source" in config.get("engine", {}):
        words = [word.lstrip("+").partition("=") for word in told.get("overrides", [])]
        return {name: value for name, _, value in words if name == "experiment" or isinstance(config.get(name), dict)}
    pairs = [line.strip().partition(": ")[::2] for line in found[1].splitlines() if "hydra/" not in line]
    return {name: None if value == "null" else value.strip("'\"") for name, value in pairs}
