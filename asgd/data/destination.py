"""Where shards and their index are written: a local folder or an object store. A file is there whole or not at all."""

import os
import tempfile
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from shutil import disk_usage
from typing import BinaryIO, Protocol

import obstore
from filelock import FileLock, Timeout
from obstore.exceptions import NotFoundError

from asgd.data.clients import Access, cause, patiently
from asgd.data.urls import is_local, local_path

UPLOAD = Access(anonymous=False, token=None, endpoint=None, timeout=600)  # seconds without an answer: a shard is long
RETRY_SECONDS = 180
ABSENT = (FileNotFoundError, NotFoundError)


class Destination(Protocol):
    """A folder; names are those of files in it. ``str`` gives its path or URL."""

    def prepare(self) -> None:
        """Make the folder; ValueError when nothing can be written there."""

    def lock(self, name: str) -> AbstractContextManager:
        """Held while files of that set are written; ValueError when another process holds it (local folders only)."""

    def read(self, name: str) -> bytes | None:
        """A small file whole, None if it is not there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if it is not there."""

    def names(self) -> list[str]:
        """The files that are there."""

    def temporary(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A new file to write, that is to be published as ``name``; it is gone afterwards if it was not."""

    def publish(self, file: BinaryIO, name: str) -> None:
        """Make the temporary file appear under its name, in one step."""

    def remove(self, name: str) -> None:
        """Remove a file that is there."""

    def free(self) -> int | None:
        """Bytes that fit, where that is known."""


def at(folder: str) -> Destination:
    """The destination of a path, a ``file:`` URL or the URL of an object store."""
    return Local(Path(local_path(folder))) if is_local(folder) else Remote(folder)


def write(destination: Destination, name: str, content: bytes) -> None:
    """A small file in one step."""
    with destination.temporary(name) as file:
        file.write(content)
        destination.publish(file, name)


class Local:
    """A folder of this machine. Bytes are on the disk before a file gets its name."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot write there ({error.strerror}); choose another out=") from error

    @contextmanager
    def lock(self, name: str):
        lock = FileLock(path := self.folder / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.folder}: another process is writing {name} there; wait for its end") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.exists() else None

    def names(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    @contextmanager
    def temporary(self, name: str):
        path = self.folder / f".{name}.part"
        try:
            with open(path, "w+b") as file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def publish(self, file: BinaryIO, name: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        os.rename(file.name, self.folder / name)
        _sync_folder(self.folder)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def free(self) -> int:
        return disk_usage(self.folder).free


class Remote:
    """A folder of an object store. A file is one PUT, which stores do whole or not at all."""

    def __init__(self, url: str, access: Access = UPLOAD, retry_seconds: float = RETRY_SECONDS):
        self.url, self.access, self.retry_seconds = url.rstrip("/"), access, retry_seconds

    def __str__(self) -> str:
        return self.url

    def prepare(self) -> None:
        """Nothing to make; the first file that is written shows whether it may be."""

    def lock(self, name: str) -> AbstractContextManager:
        return nullcontext()

    def read(self, name: str) -> bytes | None:
        try:
            return self._call(name, lambda store, path: bytes(obstore.get(store, path).bytes()))
        except ABSENT:
            return None

    def size(self, name: str) -> int | None:
        try:
            return self._call(name, lambda store, path: obstore.head(store, path)["size"])
        except ABSENT:
            return None

    def names(self) -> list[str]:
        found = self._call("", lambda store, path: obstore.list_with_delimiter(store, path)["objects"])
        return [meta["path"].rpartition("/")[2] for meta in found]

    def temporary(self, name: str) -> AbstractContextManager[BinaryIO]:
        return tempfile.TemporaryFile()

    def publish(self, file: BinaryIO, name: str) -> None:
        file.seek(0)
        content = file.read()
        self._call(name, lambda store, path: obstore.put(store, path, content, use_multipart=False))

    def remove(self, name: str) -> None:
        with suppress(*ABSENT):  # as a repeated attempt finds it
            self._call(name, obstore.delete)

    def free(self) -> None:
        return None

    def _call(self, name, call):
        """What ``call(store, path)`` gives, tried again while that may help; ValueError with URL and cause."""
        url = f"{self.url}/{name}"
        store, path = self.access.client(url)
        try:
            return patiently(self.retry_seconds, lambda: call(store, path))
        except ABSENT:
            raise
        except Exception as error:
            raise ValueError(f"{url}: {cause(error, url, self.access)}") from error


def _sync_folder(folder: Path) -> None:
    """Make renames in the folder last; some file systems cannot."""
    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(handle)
    os.close(handle)
