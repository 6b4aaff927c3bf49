"""Whole runs in this process, into a folder, as the command line makes them."""

import json
from pathlib import Path

import torch

from asgd import checkpoints, command_line, describe, results
from asgd.job import Job
from asgd.records import write_json
from tests.scripted import QUADRATIC, a_job

BRIEF = ("budget.epochs=null", "evaluate.every=0", "checkpoint.every=10")


def run(folder: Path, *overrides: str, problem: tuple[str, ...] = QUADRATIC) -> Path:
    """The finished run's folder; without evaluations unless ``overrides`` say otherwise."""
    return finished(folder, a_job(*overrides, problem=problem, limits=BRIEF))


def finished(folder: Path, job: Job) -> Path:
    job.check()
    job.engine.reserve(job)
    write_json(folder / "parameters.json", describe.run(job.config, job.task("cpu"), []))
    job.engine.run(job, folder)
    return folder


def replayed(source: Path, folder: Path, *options: str) -> dict:
    """``replay.json`` of the replay of a run."""
    words = ["engine=replay", f"engine.source={source}", *options]
    config = a_job(*words, limits=()).config
    finished(folder, Job(command_line.adopted(config, words)))
    found = json.loads((folder / "replay.json").read_text())
    assert found["events"] == found["of_events"], "the replay was interrupted"
    return found


def pushes(folder: Path):
    """The rows of ``updates.csv`` that are pushes."""
    table = results.updates(folder)
    return table[table.event == "push"]


def record(folder: Path) -> bytes:
    """``updates.csv`` without its last column: how long the server took for an event is not repeated."""
    rows = (folder / "stats/ps/updates.csv").read_bytes().splitlines(keepends=True)
    assert rows[0].endswith(b",apply_s\n")
    return b"".join(row.rpartition(b",")[0] + b"\n" for row in rows)


def parameters(folder: Path) -> torch.Tensor:
    """[P], those of the last checkpoint."""
    return checkpoints.load(folder)["server"]["parameters"]["params"]
