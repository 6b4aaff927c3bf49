"""A small sweep as the command line makes it, in this process, and run folders written by hand."""

import itertools
import json
from pathlib import Path

from asgd import describe
from asgd.records import SUMMARY, write_json
from tests.scripted import a_job

GRID = {"workers": (1, 2), "topology": ("async", "sync"), "seed": (1, 2)}
TINY = (  # an MLP in virtual time
    *("engine=virtual", "engine.gradients=single", "model=mlp", "model.hidden=[8]", "dataset.batch_size=32"),
    *("budget.epochs=null", "budget.updates=40", "evaluate.every=10", "checkpoint.every=0", "optimizer.lr=0.2"),
)


def sweep(folder: Path, grid: dict = GRID, options: tuple[str, ...] = TINY) -> Path:
    """One run folder for each combination, numbered from 0."""
    for number, values in enumerate(itertools.product(*grid.values())):
        words = [f"{name}={value}" for name, value in zip(grid, values, strict=True)]
        a_run(folder / str(number), [*words, *options])
    return folder


def a_run(folder: Path, words: list[str]) -> Path:
    """The finished run, with what was typed on record."""
    job = a_job(*words, problem=(), limits=())
    job.check()
    write_json(folder / "parameters.json", describe.run(job.config, job.task("cpu"), words))
    job.engine.run(job, folder)
    return folder


def a_folder(folder: Path, config: dict | None = None, overrides=(), ended: str | None = "budget", **tables) -> Path:
    """A run folder written by hand; ``tables`` are contents of files in stats/ps."""
    (folder / "stats/ps").mkdir(parents=True)
    content = {"config": config or {"workers": 2}, "overrides": list(overrides), "seed": 0}
    (folder / "parameters.json").write_text(json.dumps(content))
    if ended:
        (folder / "summary.json").write_text(json.dumps(dict.fromkeys(SUMMARY) | {"ended": ended, "updates": 3}))
    for name, text in tables.items():
        (folder / f"stats/ps/{name}.csv").write_text(text)
    return folder
