"""Read WebDataset shards: tar archives in which the files of one sample share a key, ``KEY.jpg`` and ``KEY.cls``.

Python's tarfile, like most readers, takes the end of the stream between two members, or a damaged header, for the
end of the archive, and so loses the rest of a truncated shard without a word. Here only the end-of-archive marker
ends a shard, and only zeros may follow it; everything else is a ``DataError``.
"""

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import BinaryIO

from webdataset.tariterators import base_plus_ext

from asgd.data.errors import DataError
from asgd.data.storage import Storage

IMAGES = ("jpg", "jpeg", "png")
LABEL = "cls"


@dataclass(frozen=True)
class Sample:
    """The undecoded files of one key: pairs of (suffix in lower case, content)."""

    shard: str
    key: str
    files: tuple[tuple[str, bytes], ...]


def samples(storage: Storage, url: str, sha256: str | None = None) -> Iterator[Sample]:
    """The samples of a shard in file order, read as one forward stream to its end; ``sha256``: see ``Storage.open``."""
    for key, group in groupby(_files(storage, url, sha256, contents=True), key=lambda file: file[0]):
        yield Sample(url, key, tuple((suffix, content) for _, suffix, content in group))


def count(storage: Storage, url: str) -> int:
    """The number of samples of a shard, from its headers alone where the shard is a file, else read through."""
    return sum(1 for _ in groupby(_files(storage, url, None, contents=False), key=lambda file: file[0]))


def _files(storage: Storage, url: str, sha256: str | None, contents: bool) -> Iterator[tuple[str, str, bytes]]:
    """(key, suffix, content) of each image and label in file order; all other members play no part."""
    found, offset = False, 0
    try:
        with storage.open(url, sha256=sha256) as stream, _open_archive(stream, contents) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()
                offset = info.offset
                if name := _name(info):
                    found = True
                    yield *name, archive.extractfile(info).read() if contents else b""
                offset = archive.offset
            _only_zeros_follow(archive.fileobj)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{url}: truncated, corrupt or unreadable at or after byte {offset}: {error}") from error
    if not found:
        raise DataError(f"{url}: holds no samples (KEY.jpg, KEY.jpeg or KEY.png, and KEY.cls)")


def _open_archive(stream: BinaryIO, contents: bool) -> tarfile.TarFile:
    if not contents and stream.seekable():
        return tarfile.open(fileobj=stream, mode="r:*", tarinfo=_Header)
    return tarfile.open(fileobj=_unzipped(stream), mode="r|*", tarinfo=_Header)


def _unzipped(stream: BinaryIO) -> BinaryIO:
    """The stream, or the content of a gzip file: tarfile itself would not look at its checksum, nor at joined files."""
    whole = _Prefixed(stream.read(2), stream)
    return gzip.GzipFile(fileobj=whole) if whole.prefix == b"\x1f\x8b" else whole


class _Prefixed:
    """A stream from its start, of which the first bytes have already been read."""

    def __init__(self, prefix: bytes, stream: BinaryIO):
        self.prefix, self._stream = prefix, stream

    def read(self, size: int) -> bytes:
        first, self.prefix = self.prefix[:size], self.prefix[size:]
        return first + self._stream.read(size - len(first))


def _name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """(key, suffix) of an image or a label."""
    key, suffix = base_plus_ext(info.name)
    known = info.isreg() and key is not None and suffix.lower() in (*IMAGES, LABEL)
    return (key, suffix.lower()) if known else None


def _only_zeros_follow(stream: BinaryIO) -> None:
    while block := stream.read(1 << 16):
        if block.strip(b"\0"):
            raise tarfile.ReadError("data after the end-of-archive marker")


class _Header(tarfile.TarInfo):
    """A header that is missing or damaged is an error; only zeros mark the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end-of-archive marker ({error})") from error
