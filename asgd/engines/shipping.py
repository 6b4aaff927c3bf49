"""A node's files on their way to the server's folder, while they grow."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from asgd.records import METRICS, SYSTEM

TABLES = {"training_metrics.csv": METRICS, "system_stats.csv": SYSTEM}
FILES = (*TABLES, "parameters.json", "worker.log")


class Shipper:
    """A thread that sends what the files of ``folder`` have gained, each ``PERIOD`` seconds and at the end.

    ``send(name, at, data)``: the bytes of a file from ``at`` on.
    """

    PERIOD, MOST = 1.5, 1 << 22  # seconds; bytes at a time

    def __init__(self, folder: Path, send: Callable[[str, int, bytes], None]):
        self.folder, self.send, self.sent = folder, send, dict.fromkeys(FILES, 0)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.wait(self.PERIOD):
            with suppress(Exception):  # what is missing is sent later, or at the end, or said there
                self._ship()

    def _ship(self) -> None:
        for name in FILES:
            while data := self._news(self.folder / name):
                self.send(name, self.sent[name], data)
                self.sent[name] += len(data)

    def _news(self, path: Path) -> bytes:
        size = path.stat().st_size if path.exists() else 0
        self.sent[path.name] = min(self.sent[path.name], size)  # its last rows may have been taken back
        if size == self.sent[path.name]:
            return b""
        with open(path, "rb") as file:
            file.seek(self.sent[path.name])
            return file.read(self.MOST)

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        self._ship()


class Inbox:
    """Appends what nodes send to ``stats/<node>/`` of ``folder``. A table that is there keeps its one header."""

    def __init__(self, folder: Path):
        self.folder, self.known = folder / "stats", set()

    def receive(self, node: str, name: str, data: bytes) -> None:
        path = file_of(self.folder, node, name)
        header = (",".join(TABLES.get(name, ())) + "\n").encode()
        continued = path not in self.known and path.exists() and name in TABLES
        self.known.add(path)
        with open(path, "wb" if name == "parameters.json" else "ab") as file:
            file.write(data.removeprefix(header) if continued else data)


class Mirror:
    """Keeps ``stats/<node>/`` of ``folder`` as the nodes' own files are, where these may lose their last rows again.

    A node's table that begins anew, in another folder than before, is put behind what is there, at its ``base``.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "stats"

    def receive(self, node: str, name: str, base: int | None, at: int, data: bytes) -> int:
        """The base, after byte ``at`` of the node's file and all that follows have become ``data``.

        ValueError where it would not follow what is there.
        """
        path = file_of(self.folder, node, name)
        if base is None:
            header = (",".join(TABLES.get(name, ())) + "\n").encode()
            continued = path.exists() and (name in TABLES or name.endswith(".log"))
            base = max(0, path.stat().st_size - (len(header) if name in TABLES else 0)) if continued else 0
            data = data[len(header) :] if base and name in TABLES else data
            at = len(header) if base and name in TABLES else at
        with open(path, "r+b" if path.exists() else "w+b") as file:
            if base + at > (size := file.seek(0, os.SEEK_END)):
                raise ValueError(f"{node}/{name} from byte {base + at} on, where there are only {size}")
            file.truncate(base + at)
            file.seek(0, os.SEEK_END)
            file.write(data)
        return base


def file_of(folder: Path, node: str, name: str) -> Path:
    """ValueError for what is no file of a node."""
    if name not in FILES or not node.isalnum():
        raise ValueError(f"{node}/{name} is not a file of a node")
    path = folder / node / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
