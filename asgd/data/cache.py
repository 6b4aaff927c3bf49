"""Copies of remote shards on this host's disk, shared by its processes: whole ones only, least recently used go first.

A shard is written under a temporary name, which its writer holds locked (flock), and gets its own name only when it is
complete. A temporary file that nobody holds locked is of a writer that was killed; the next process to use the folder
removes it. Everything that changes the folder's contents happens under the folder's own lock.
"""

import fcntl
import hashlib
import io
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SHARD, PART, LOCK = ".shard", ".part", "asgd-cache.lock"

log = logging.getLogger(__name__)


class Cache:
    """A folder of at most ``limit`` bytes (None: as the disk allows); files that are not its own are left alone."""

    def __init__(self, folder: str, limit: int | None):
        self.folder, self.limit = Path(folder), limit
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._clean()
        except OSError as error:
            raise ValueError(
                f"dataset.cache_dir={folder}: must be a folder to write and lock files in: {error}"
            ) from None

    def open(self, key: tuple, size: int) -> BinaryIO | None:
        """The copy of a shard of ``size`` bytes, for which ``key`` (URL and version) stands; None without one."""
        try:
            stream = open(self._path(key), "rb")  # noqa: SIM115
        except FileNotFoundError:
            return None
        if os.fstat(stream.fileno()).st_size != size:  # the disk failed, or somebody else has written here
            stream.close()
            return None
        with suppress(OSError):  # another user's copy can be read, not marked as used
            os.utime(stream.fileno())
        return stream

    def filling(self, key: tuple, size: int, source: BinaryIO) -> BinaryIO:
        """``source``, of which a copy is kept when it is read to its end, and where there is room."""
        with self._locked():
            if not self._make_room(size):
                return source
            try:
                return _Filling(self, key, size, source)
            except OSError as error:
                log.warning("%s: no copy of a shard can be kept: %s", self.folder, error)
                return source

    def keep(self, part: Path, key: tuple) -> None:
        """Give a complete file its name."""
        with self._locked():
            part.rename(self._path(key))

    def _path(self, key: tuple) -> Path:
        return self.folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}{SHARD}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _clean(self) -> None:
        for part in self.folder.glob(f"*{PART}"):
            with suppress(OSError), open(part) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                part.unlink()

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` more bytes fit, after removing what was not used for longest; parts count in full."""
        if self.limit is None:
            return True
        files = {path: path.stat() for path in self.folder.iterdir() if path.suffix in (SHARD, PART)}
        excess = sum(each.st_size for each in files.values()) + size - self.limit
        shards = sorted((path for path in files if path.suffix == SHARD), key=lambda path: files[path].st_mtime_ns)
        if excess > sum(files[path].st_size for path in shards):
            return False
        while excess > 0:
            excess -= files[shards[0]].st_size
            shards.pop(0).unlink()
        return True


class _Filling(io.BufferedIOBase):
    """A stream that writes what is read of it beside, at its full size from the start so that the room is taken."""

    def __init__(self, cache: Cache, key: tuple, size: int, source: BinaryIO):
        self._cache, self._key, self._size, self._source = cache, key, size, source
        self._part = cache.folder / f"{uuid.uuid4().hex}{PART}"
        self._copy = open(self._part, "xb")  # noqa: SIM115
        fcntl.flock(self._copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._copy.truncate(size)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        block = self._source.read(size)
        if self._copy is not None:
            self._write(block)
        return block

    def _write(self, block: bytes) -> None:
        """A copy that cannot be written, for lack of space, must not end the reading."""
        try:
            self._copy.write(block)
            if self._copy.tell() == self._size:
                self._keep()
        except OSError as error:
            log.warning("%s: no copy of a shard is kept: %s", self._part, error)
            self._drop()

    def _keep(self) -> None:
        self._copy.flush()
        os.fsync(self._copy.fileno())
        self._cache.keep(self._part, self._key)
        self._drop()

    def _drop(self) -> None:
        """Give up the temporary file, where it is still one."""
        if self._copy is not None:
            copy, self._copy = self._copy, None
            self._part.unlink(missing_ok=True)
            with suppress(OSError):  # what is in its buffer may not fit on the disk
                copy.close()

    def close(self) -> None:
        if not self.closed:
            self._drop()
            self._source.close()
        super().close()
