"""Read WebDataset shards: tar archives in which the files of one sample share a key, ``KEY.jpg`` and ``KEY.cls``.

Python's tarfile, like most readers, takes the end of the stream between two members, or a damaged header, for the
end of the archive, and so loses the rest of a truncated shard without a word. Here only the end-of-archive marker
ends a shard, and only zeros may follow it; everything else is a ``DataError``.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import BinaryIO

from webdataset.tariterators import base_plus_ext

from asgd.data.urls import local_path

IMAGES = ("jpg", "jpeg", "png")
LABEL = "cls"


class DataError(ValueError):
    """Broken data: the message names the shard, the key or the offset in bytes, and the cause."""


@dataclass(frozen=True)
class Sample:
    """The undecoded files of one key: pairs of (suffix in lower case, content)."""

    shard: str
    key: str
    files: tuple[tuple[str, bytes], ...]


def open_shard(url: str) -> BinaryIO:
    """A shard as a stream of bytes: the one place that knows where shards are kept."""
    return open(local_path(url), "rb")


def samples(url: str) -> Iterator[Sample]:
    """The samples of a shard in file order, read as one forward stream."""
    for key, group in groupby(_files(url, contents=True), key=lambda file: file[0]):
        yield Sample(url, key, tuple((suffix, content) for _, suffix, content in group))


def count(url: str) -> int:
    """The number of samples of a shard, from its headers alone (the shard must be seekable)."""
    return sum(1 for _ in groupby(_files(url, contents=False), key=lambda file: file[0]))


def _files(url: str, contents: bool) -> Iterator[tuple[str, str, bytes]]:
    """(key, suffix, content) of each image and label in file order; all other members play no part."""
    found, offset = False, 0
    try:
        with open_shard(url) as stream, _open_archive(stream, "r|*" if contents else "r:*") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()
                offset = info.offset
                if name := _name(info):
                    found = True
                    yield *name, archive.extractfile(info).read() if contents else b""
                offset = archive.offset
            _only_zeros_follow(archive.fileobj)
    except (tarfile.TarError, OSError, EOFError, DataError) as error:
        raise DataError(f"{url}: truncated, corrupt or unreadable at or after byte {offset}: {error}") from error
    if not found:
        raise DataError(f"{url}: holds no samples (KEY.jpg, KEY.jpeg or KEY.png, and KEY.cls)")


def _open_archive(stream: BinaryIO, mode: str) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode=mode, tarinfo=_Header)


def _name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """(key, suffix) of an image or a label."""
    key, suffix = base_plus_ext(info.name)
    known = info.isreg() and key is not None and suffix.lower() in (*IMAGES, LABEL)
    return (key, suffix.lower()) if known else None


def _only_zeros_follow(stream: BinaryIO) -> None:
    while block := stream.read(1 << 16):
        if block.strip(b"\0"):
            raise DataError("data after the end-of-archive marker")


class _Header(tarfile.TarInfo):
    """A header that is missing or damaged is an error; only zeros mark the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise DataError(f"no end-of-archive marker ({error})") from error
