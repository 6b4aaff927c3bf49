"""What ``parameters.json`` says of a run and of its nodes."""

import importlib.metadata
import os
import platform
import socket
import subprocess
from pathlib import Path

from asgd import __version__
from asgd.task import Task

PACKAGES = ("torch", "torchvision", "webdataset", "hydra-core", "omegaconf", "numpy")


def run(config: dict, task: Task, overrides: list[str]) -> dict:
    """The whole run: resolved configuration, sizes, seed, versions and the state of the checkout."""
    sizes = {"parameter_count": task.params.numel(), "buffer_count": task.buffers.numel()}
    update = task.params.nbytes + task.buffers.nbytes
    return {
        "config": config,
        "overrides": overrides,
        **sizes,
        "bytes_per_update": update,
        "seed": config["seed"],
        "versions": versions(),
        **git(),
    }


def node(config: dict, role: str, rank: int | None, device: str, threads: int) -> dict:
    """One node: its role and place, and the hyper-parameters it works with."""
    names = ("model", "dataset", "optimizer", "schedule", "topology", "buffers", "workers", "seed", "budget")
    return {
        "role": role,
        "rank": rank,
        "device": device,
        "threads": threads,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "versions": versions(),
        "hyper_parameters": {name: config[name] for name in names},
    }


def versions() -> dict[str, str]:
    found = {"asgd": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def git() -> dict:
    """Commit and dirty flag of the checkout this package lies in; null where there is none."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
