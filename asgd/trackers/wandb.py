"""Weights & Biases, in ``wandb/`` of the run folder. With ``mode=offline``, ``wandb sync`` uploads that later."""

import secrets
from pathlib import Path

from asgd.trackers.base import Point, Tracker

MODES = ("online", "offline", "disabled")


class Wandb(Tracker):
    """``mode`` None leaves it to WANDB_MODE, and ``project``, ``entity`` and ``name`` None to wandb."""

    option, packages = "tracker=wandb", ("wandb",)
    MARK = "stats/ps/.wandb"  # in the run folder: the id of the run

    def __init__(self, mode=None, project: str | None = "asgd", entity: str | None = None, name: str | None = None):
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode={mode}: one of {', '.join(MODES)}, or null for what WANDB_MODE says")
        self.mode, self.place = mode, {"project": project, "entity": entity, "name": name}

    def open(self, folder: Path, parameters: dict, begun: float, version: int) -> None:
        import wandb

        mark = folder / self.MARK
        if not mark.exists():
            mark.write_text(secrets.token_hex(4))
        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True)
        known = {"id": mark.read_text(), "resume": "allow"}
        self.run = wandb.init(dir=str(folder), mode=self.mode, config=parameters, settings=quiet, **known, **self.place)
        self.run.define_metric("*", step_metric="updates")  # an evaluation comes after versions that are newer

    def write(self, points: list[Point]) -> None:
        for version, seconds, figures in points:
            self.run.log({**figures, "updates": version, "seconds": seconds})

    def close(self, summary: dict) -> None:
        import wandb

        self.run.summary.update({f"summary/{name}": value for name, value in summary.items()})
        self.run.finish(exit_code=0 if summary.get("ended") not in (None, "error") else 1)
        wandb.teardown()  # of the process beside this one
