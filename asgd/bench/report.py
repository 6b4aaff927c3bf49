"""What a session found, as tables for a person and as a file."""

import json
import os
import platform
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

from asgd.bench.session import Trials
from asgd.bench.ways import WAYS

REFERENCES = ("tutorial", "floor")
COLUMNS = "steps/s (range)", "CPU ms/step", "/ tutorial", "/ floor"


def summary(model: str, parameters: int, trials: Trials) -> dict:
    """The figures of every trial, their medians, and the ratios of these to the references of as many workers."""
    rows = [row(name, workers, samples) for (name, workers), samples in trials.items()]
    found = {(each["way"], each["workers"]): each["steps_s"] for each in rows}
    for each in rows:
        for name in REFERENCES:
            reference = found.get((name, each["workers"] if name == "tutorial" else 0))
            each[f"over_{name}"] = each["steps_s"] / reference if reference else None
    here = {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), "torch": torch.__version__}
    return {"model": model, "parameters": parameters, **here, "rows": rows}


def row(name: str, workers: int, samples) -> dict:
    rates, used = [each.steps_s for each in samples], [each.cpu_s * 1000 for each in samples]
    return {
        "way": name, "workers": workers, "steps_s": median(rates), "cpu_ms": median(used),
        "trials": [{"steps_s": rate, "cpu_ms": each} for rate, each in zip(rates, used, strict=True)],
    }  # fmt: skip


def tables(summary: dict) -> list[Table]:
    """One for each number of workers."""
    counts = dict.fromkeys(each["workers"] for each in summary["rows"])
    return [table(summary, count) for count in counts]


def table(summary: dict, workers: int) -> Table:
    where = f"{workers} worker{'s' * (workers > 1)}" if workers else "no communication"
    drawn = Table(title=f"{summary['model']}: {summary['parameters']:,} parameters, {where}")
    drawn.add_column("way")
    for column in COLUMNS:
        drawn.add_column(column, justify="right")
    for each in summary["rows"]:
        if each["workers"] == workers:
            drawn.add_row(*cells(each))
    return drawn


def cells(row: dict) -> list[str]:
    ratios = ["-" if (ratio := row[f"over_{name}"]) is None else f"{ratio:.2f}" for name in REFERENCES]
    figures = [figure(row[name], [each[name] for each in row["trials"]]) for name in ("steps_s", "cpu_ms")]
    return [WAYS[row["way"]].label, *figures, *ratios]


def figure(middle: float, values: list[float]) -> str:
    """A median with its range, if there is one."""
    return f"{middle:.1f}" + (f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else "")


def place(summary: dict) -> str:
    return f"{summary['cores']} cores, {summary['machine']}, torch {summary['torch']}; CPU time of all processes"


def write(path: str, summary: dict) -> None:
    """OSError where that is not possible."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(summary, indent=2) + "\n")
