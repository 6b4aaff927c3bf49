"""``resume=<run folder>``: go on with a run under its own options, where none are given."""

import json
from pathlib import Path

from asgd import checkpoints

SAME = ("model", "topology", "optimizer", "buffers", "seed")  # what a run cannot change half-way


def arguments(command_line: list[str]) -> list[str]:
    """The command line, completed with the options the run was started with. Hydra keeps its record of those."""
    folder = next((word.removeprefix("resume=") for word in command_line if word.startswith("resume=")), None)
    if folder in (None, "null") or not (Path(folder) / "parameters.json").exists():
        return command_line
    given = {key(word) for word in command_line}
    before = json.loads((Path(folder) / "parameters.json").read_text())["overrides"]
    return [word for word in before if key(word) not in given] + command_line + ["hydra.output_subdir=null"]


def key(override: str) -> str:
    """``+model.width=3`` -> ``model.width``"""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def check(config: dict, folder: Path) -> None:
    """ValueError when there is no checkpoint, or it belongs to another model or method."""
    before = checkpoints.load(folder)["config"]
    for part in SAME:
        if before[part] != config[part]:
            raise ValueError(
                f"resume={folder}: that run has {part} {before[part]}, this command {config[part]}; "
                "leave the option out to go on with the run as it was"
            )
