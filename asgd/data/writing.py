"""Write tar shards whose bytes depend on the samples alone: members have no owner and no time."""

import tarfile
from collections.abc import Iterator
from hashlib import file_digest
from typing import BinaryIO

from asgd.data.index import Entry

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE  # members are padded to the one, archives to the other


def members(key: str, files: dict[str, bytes]) -> bytes:
    """A sample as its part of an archive, from its contents by suffix."""
    return b"".join(_member(f"{key}.{suffix}", content) for suffix, content in files.items())


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + content.ljust(_padded(len(content), BLOCK), b"\0")


def fill(file: BinaryIO, samples: Iterator[bytes], largest: float, most: float) -> tuple[int, bytes | None]:
    """Write samples while the shard has at most ``largest`` bytes and ``most`` samples, at least one.

    Returns their number and the sample that was too much, None if there is no more.
    """
    count = size = 0
    rest = None
    for sample in samples:
        if count and (count >= most or _closed(size + len(sample)) > largest):
            rest = sample
            break
        file.write(sample)
        count, size = count + 1, size + len(sample)
    file.write(bytes(_closed(size) - size))
    return count, rest


def _closed(size: int) -> int:
    """Bytes of an archive with members of this size: two blocks of zeros mark its end."""
    return _padded(size + 2 * BLOCK, RECORD)


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def least(size: int) -> int:
    """Bytes that a sample with a picture of this size takes at least, its label included."""
    return 3 * BLOCK + _padded(size, BLOCK)


def measured(file: BinaryIO, samples: int) -> Entry:
    """The entry of a shard that has just been written."""
    size = file.tell()
    file.seek(0)
    return Entry(samples, size, file_digest(file, "sha256").hexdigest())
