"""Checkpoints: all that a run needs to go on, each written whole or not at all."""

import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from asgd.records import keep_first, keep_rows

log = logging.getLogger(__name__)


def save(folder: Path, state: dict, keep: int) -> Path:
    """Write ``checkpoints/<version>.pt`` atomically and leave the last ``keep``."""
    folder = folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{state['server']['parameters']['version']:09d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for old in sorted(folder.glob("*.pt"))[:-keep]:
        old.unlink()
    return path


def load(folder: Path) -> dict:
    """The newest checkpoint of a run. ValueError when there is none that can be read."""
    for path in sorted((folder / "checkpoints").glob("*.pt"), reverse=True):
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:  # a torn or foreign file: the one before may be whole
            log.warning("%s cannot be read (%s); trying the one before", path, error)
    raise ValueError(f"resume={folder}: no checkpoint there; a run writes them with checkpoint.every=<updates>")


def rewind(folder: Path, state: dict) -> None:
    """Take out of the tables what came after the checkpoint, so that no round is counted twice."""
    version, ledger = state["server"]["parameters"]["version"], state["server"]["ledger"]
    keep_rows(folder / "stats/ps/updates.csv", lambda number, row: number < state["events"])
    keep_rows(folder / "stats/ps/evaluation.csv", lambda number, row: int(row["version"]) <= version)
    keep_rows(folder / "stats/ps/leases.csv", lambda number, row: number < state["lease_rows"])
    for worker, entry in ledger.items():
        keep_first(folder / f"stats/worker{worker}/training_metrics.csv", entry["round"])
    for path in (folder / "checkpoints").glob("*.pt"):  # one that is newer could not be read
        if int(path.stem) > version:
            path.unlink()
    for path in (folder / "checkpoints").glob("*.tmp"):  # the run was killed while it wrote this one
        path.unlink()
    (folder / "summary.json").unlink(missing_ok=True)


class Checkpoints:
    """Saves what ``completed(state)`` makes of states, in a thread of its own.

    A state that is overtaken before its turn is left out.
    """

    def __init__(self, folder: Path, keep: int, completed: Callable[[dict], dict] = dict):
        self.folder, self.keep, self.completed = folder, keep, completed
        self.saved: Callable[[dict], None] = lambda state: None  # told of each that is on disk
        self.queue: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self.thread.start()

    def submit(self, state: dict) -> None:
        self.queue.put(state)

    def _run(self) -> None:
        while (state := self._newest()) is not None:
            try:
                save(self.folder, self.completed(state), self.keep)
                self.saved(state)
            except (OSError, RuntimeError) as error:  # torch.save turns a full disk into the latter
                log.error("no checkpoint at version %s: %s", state["server"]["parameters"]["version"], error)

    def _newest(self) -> dict | None:
        state = self.queue.get()
        while state is not None and not self.queue.empty():
            newer = self.queue.get()
            if newer is None:
                self.queue.put(None)
                break
            state = newer
        return state

    def close(self) -> None:
        self.queue.put(None)
        self.thread.join()
