"""Sweeps that go on: their words are recorded, a job is known by its options, what is finished is not done again."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from asgd.objectives import direction
from asgd.records import flatten, write_json

FREE = ("resume", "threads", "device", "server")  # what a job may have otherwise than when it was begun
FINISHED = ("budget", "diverged")


class Record(Callback):
    """Writes ``sweep.json``: the words that a sweep was started with. A sweep that goes on leaves it as it is."""

    def on_multirun_start(self, config, **_) -> None:
        path = Path(config.hydra.sweep.dir) / "sweep.json"
        if not path.exists():
            added = [each.path for each in config.hydra.runtime.config_sources if each.provider == "command-line"]
            words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
            write_json(path, {"words": [*(f"--config-dir={folder}" for folder in added), *words]})


def place(sweep: str, number: int, overrides: list[str]) -> str:
    """The folder, in that of the sweep, of the job with these options: where they were begun, else its number."""
    wanted = frozenset(overrides)
    if options(Path(sweep) / str(number)) == wanted:
        return str(number)
    return known(sweep).get(wanted, str(number))


def options(run: Path) -> frozenset[str] | None:
    """The words that make a run; None where none has begun."""
    try:
        return frozenset(json.loads((run / "parameters.json").read_text())["overrides"])
    except (OSError, ValueError, KeyError):
        return None


@cache
def known(sweep: str) -> dict[frozenset[str], str]:
    """The folders of the jobs that had begun when this process first looked."""
    return {options(path.parent): path.parent.name for path in Path(sweep).glob("*/parameters.json")}


@contextmanager
def held(run: Path) -> Iterator[None]:
    """ValueError if another process is at this job; the lock goes with the process that holds it."""
    (run / ".hydra").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run / ".hydra/lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{run}: another process is at this run; wait for it, or end it first") from None


def summary(config: dict, run: Path) -> dict | None:
    """That of a job which is finished, else None. ValueError if the folder holds a run with other options."""
    if not begun(run):
        return None
    check_same(config, run)
    path = run / "summary.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("ended") in FINISHED else None


def begun(run: Path) -> bool:
    return options(run) is not None


def check_same(config: dict, run: Path) -> None:
    before = flatten(json.loads((run / "parameters.json").read_text())["config"])
    now = flatten(json.loads(json.dumps(config, default=str)))
    names = [name for name in [*before, *now] if name.partition(".")[0] not in FREE]
    if different := next((name for name in names if before.get(name) != now.get(name)), None):
        raise ValueError(
            f"{run} already holds a run with {different}={before.get(different)}, and this one has "
            f"{now.get(different)}; a sweep goes on as it was begun, another one needs another hydra.sweep.dir"
        )


def going_on(config: dict, run: Path) -> dict:
    """The configuration with which a job goes on from its last checkpoint; without one its folder is emptied."""
    if any((run / "checkpoints").glob("*.pt")):
        return config | {"resume": str(run)}
    for path in run.iterdir():
        if path.name not in (".hydra", "run.log"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return config


def register() -> None:
    """Make what decides on folders and directions known to the configuration files."""
    OmegaConf.register_new_resolver("asgd.place", place, replace=True)
    OmegaConf.register_new_resolver("asgd.direction", direction, replace=True)
