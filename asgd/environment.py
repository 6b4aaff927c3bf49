"""What the environment says: launchers such as torchrun set RANK and WORLD_SIZE, and each run gets a folder."""

import os
from pathlib import Path

from omegaconf import OmegaConf


def role() -> str:
    """Rank 0 is the parameter server, the others are workers; without RANK one process starts everything."""
    if "RANK" not in os.environ:
        return "all"
    return "ps" if os.environ["RANK"] == "0" else "worker"


def rank() -> int | None:
    return int(os.environ["RANK"]) if os.environ.get("RANK", "0") != "0" else None


def workers() -> int:
    return int(os.environ["WORLD_SIZE"]) - 1 if "WORLD_SIZE" in os.environ else 2


def folder(resume: str | None, role: str, rank: int | None, now: str) -> str:
    """Where a run writes: the resumed folder, or a new one; all nodes but the first server have their own beside it."""
    if resume:
        return str(resume)
    suffix = {"worker": f"-worker{rank or f'-{os.getpid()}'}", "evaluator": "-evaluator"}.get(role, "")
    if role == "ps" and rank not in (None, 1):
        suffix = f"-ps{rank}"
    return str(Path("outputs") / (now + suffix))


def register() -> None:
    """Make the functions above known to the configuration files."""
    for function in (role, rank, workers, folder):
        OmegaConf.register_new_resolver(f"asgd.{function.__name__}", function, replace=True)
