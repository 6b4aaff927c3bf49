"""Tables that grow while they are read."""

import os
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20  # bytes read at a time
TEXT, REAL = ("event",), ("loss", "accuracy", "top_k_accuracy")


def kind(column: str) -> type:
    """What the values of a column of a run's tables are."""
    if column in TEXT:
        return str
    return float if column in REAL or column.endswith(("_s", "_percent", "_mb")) else int


class Tail:
    """The rows that a CSV table has gained since they were last asked for, as named tuples; an empty field is None.

    A last line without its end waits until that has come. With ``most``, only the last so many bytes of what has been
    gained are looked at: what is more is left out. A table that was written anew (the run was resumed) is ``replaced``.
    """

    def __init__(self, path: Path, most: int | None = None):
        self.path, self.most, self.at, self.inode = path, most, 0, None
        self.kinds: list[type] = []

    def replaced(self) -> bool:
        """Whether the rows that were read may be others by now."""
        try:
            status = self.path.stat()
        except OSError:
            return self.inode is not None
        return self.inode is not None and (status.st_ino != self.inode or status.st_size < self.at)

    def rows(self) -> Iterator[tuple]:
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed below
        except OSError:  # not yet there, or no more
            return
        with file:
            status = os.fstat(file.fileno())
            self.inode = status.st_ino
            if not self.kinds and not self._header(file.readline()):
                return
            self._leave_out(file, status.st_size)
            yield from self._blocks(file)

    def _header(self, line: bytes) -> bool:
        """Whether the names of the columns are there already."""
        if not line.endswith(b"\n"):
            return False
        names = line.decode().rstrip("\r\n").split(",")
        self.at, self.kinds, self.make = len(line), [kind(name) for name in names], namedtuple("Row", names)._make
        return True

    def _leave_out(self, file, size: int) -> None:
        if self.most is not None and size - self.at > self.most:
            file.seek(size - self.most)
            self.at = size - self.most + len(file.readline())
        file.seek(self.at)

    def _blocks(self, file) -> Iterator[tuple]:
        rest = b""
        while block := file.read(BLOCK):
            whole, end, rest = (rest + block).rpartition(b"\n")
            self.at += len(whole) + len(end)
            for line in whole.splitlines() if end else ():
                if row := self._row(line.decode()):
                    yield row

    def _row(self, line: str) -> tuple | None:
        """None for a line that is no row: a machine that went down may leave such ones."""
        texts = line.split(",")
        if len(texts) != len(self.kinds):
            return None
        try:
            return self.make([kind(text) if text else None for kind, text in zip(self.kinds, texts, strict=True)])
        except ValueError:
            return None
