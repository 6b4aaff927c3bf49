"""Checkpoints: all that a run needs to go on, each written whole or not at all, and known by its checksum."""

import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch

from asgd.records import keep_first, keep_rows

log = logging.getLogger(__name__)

MARK = b"\nasgd sha256 "  # at the end of a file, and then the digest of all before; readers of torch's files skip both
DIGEST = hashlib.sha256().digest_size
ZIP_END = 22  # bytes at the end of a zip archive, such as torch writes
CHUNK = 1 << 20  # bytes that are read at a time


def save(folder: Path, state: dict, keep: int) -> Path:
    """Write ``checkpoints/<version>.pt`` atomically, with its checksum in it, and leave the last ``keep``.

    The older ones go only when the new one is on the disk under its name.
    """
    folder = folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{state['server']['parameters']['version']:09d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, summed := Summed(file))
            file.write(MARK + summed.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)
    for old in sorted(folder.glob("*.pt"))[:-keep]:
        old.unlink()
    return path


class Summed:
    """A file to be written to, and the checksum of what was meant to be written."""

    def __init__(self, file: BinaryIO):
        self.file, self.sum = file, hashlib.sha256()
        self.digest, self.flush = self.sum.digest, file.flush

    def write(self, data) -> int:
        self.sum.update(data)
        return self.file.write(data)


def sync(folder: Path) -> None:
    """So that the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> dict:
    """What was saved. ValueError where it is not that. An older file has no checksum, but is whole up to its end."""
    with open(path, "rb") as file:
        size = max(0, path.stat().st_size - len(MARK) - DIGEST)
        file.seek(size)
        end = file.read()
        if end.startswith(MARK):
            if end != MARK + digest(file, size):
                raise ValueError("its checksum is another: it has changed since it was written")
        elif end[-ZIP_END:][:4] != b"PK\5\6":
            raise ValueError("its end is missing")
        file.seek(0)
        return torch.load(file, weights_only=True)


def digest(file: BinaryIO, size: int) -> bytes:
    """Of the first ``size`` bytes."""
    found = hashlib.sha256()
    file.seek(0)
    for start in range(0, size, CHUNK):
        found.update(file.read(min(CHUNK, size - start)))
    return found.digest()


def load(folder: Path) -> dict:
    """The newest checkpoint of a run that is as it was written. ValueError when there is none."""
    paths = sorted((folder / "checkpoints").glob("*.pt"), reverse=True)
    for path in paths:
        try:
            return read(path)
        except Exception as error:  # torn, changed or foreign: the one before may be whole
            warn(path, str(error).partition("\n")[0])
    found = f"none of its {len(paths)} checkpoints can be read" if paths else "no checkpoint there"
    raise ValueError(f"resume={folder}: {found}; a run writes them with checkpoint.every=<updates>")


@cache
def warn(path: Path, reason: str) -> None:
    """Once, however often it is tried: a run looks for its checkpoint when it is checked and when it goes on."""
    log.warning("%s cannot be read (%s); trying the one before", path, reason)


def rewind(folder: Path, state: dict, of_workers: bool = True) -> int:
    """Take out of the tables what came after the checkpoint, so that no round counts twice; how many pushes that is.

    ``of_workers``: also out of the workers' own, where they are not there to do it.
    """
    version, ledger = state["server"]["parameters"]["version"], state["server"]["ledger"]
    undone = keep_rows(folder / "stats/ps/updates.csv", lambda number, row: number < state["events"])
    keep_rows(folder / "stats/ps/evaluation.csv", lambda number, row: int(row["version"]) <= version)
    keep_rows(folder / "stats/ps/leases.csv", lambda number, row: number < state["lease_rows"])
    for worker, entry in ledger.items() if of_workers else ():
        keep_first(folder / f"stats/worker{worker}/training_metrics.csv", entry["round"])
    for path in (folder / "checkpoints").glob("*.pt"):  # one that is newer could not be read
        if int(path.stem) > version:
            path.unlink()
    for path in (folder / "checkpoints").glob("*.tmp"):  # the run was killed while it wrote this one
        path.unlink()
    (folder / "summary.json").unlink(missing_ok=True)
    return sum(row["event"] == "push" for row in undone)


def resume(folder: Path, keep: int, of_workers: bool = True) -> dict:
    """The state that a run goes on from; its tables are cut to it.

    ``rolled_back`` in it counts the pushes that were taken out so far. It is saved at once, so that those of now are
    not forgotten where the run dies again before its next checkpoint.
    """
    state = load(folder)
    undone = rewind(folder, state, of_workers)
    state["rolled_back"] = state.get("rolled_back", 0) + undone
    if undone:
        with surviving(state):
            save(folder, state, keep)
    return state


@contextmanager
def surviving(state: dict) -> Iterator[None]:
    """Where it cannot be saved the run goes on, and the older ones are there."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into the latter
        log.error("no checkpoint at version %s: %s", state["server"]["parameters"]["version"], error)


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
            with surviving(state):
                save(self.folder, self.completed(state), self.keep)
                self.saved(state)

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
