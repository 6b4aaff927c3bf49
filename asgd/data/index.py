"""The index of a set of shards: samples, bytes and checksum of each, in one small file beside them.

The format is that of webdataset's ``wids`` ("wids-shard-index-v1"), with ``sha256`` added. The shards
``DIR/train-000000.tar``, ``DIR/train-000001.tar``, ... have ``DIR/train-index.json``, so that several sets can share a
folder, and so that it is found without listing. ``python -m asgd.data.index url=PATTERN`` makes it for shards that
exist already.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.progress import track

from asgd import words
from asgd.data import destination, tar
from asgd.data.clients import REFUSED
from asgd.data.errors import DataError
from asgd.data.storage import Storage

KIND = "wids-shard-index-v1"
NUMBER = r"(?:(?:[-_.]|(?<![^/]))\d+|\d{4,})(?:-of-\d+)?"  # train-000, 000, train0000, but not cifar10
PARTS = re.compile(rf"(?P<folder>.*/)?(?P<prefix>.*?)(?:{NUMBER})?(?:\.tar|\.tgz)?(?:\.\w+)?")
REMEDY = "make it anew (python -m asgd.data.index url=...) or remove it"
Index = dict[str, Any]

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One shard: its samples, its size in bytes, the SHA-256 of its bytes in hex where it is known."""

    samples: int
    bytes: int
    sha256: str | None


def place(shard: str) -> str:
    """Where the index of this shard is: ``DIR/train-000007.tar`` -> ``DIR/train-index.json``."""
    parts = PARTS.fullmatch(shard)
    return f"{parts['folder'] or ''}{filename(parts['prefix'])}"


def filename(prefix: str) -> str:
    return f"{prefix}-index.json" if prefix else "index.json"


def find(storage: Storage, shards: Sequence[str]) -> dict[str, Entry]:
    """What the indexes beside the shards say, by shard; nothing for those without an index.

    Reads one small file per folder and prefix. DataError for an index that is broken, or does not know its shards.
    """
    found = {}
    for index, group in groupby(sorted(shards, key=place), key=place):
        if (content := _read(storage, index)) is not None:
            entries = parse(content, index)
            found |= {shard: _look_up(entries, shard, index) for shard in group}
    return {shard: found[shard] for shard in shards if shard in found}


def _read(storage: Storage, index: str) -> bytes | None:
    """None also where stores refuse what they would not even list: they do so for objects that are not there."""
    try:
        return storage.read(index)
    except (PermissionError, *REFUSED):
        log.warning("%s: no permission to read it, if it is there; the shards are used without an index", index)
        return None


def parse(content: bytes, url: str) -> dict[str, Entry]:
    """The entries of an index by the file name of the shard. DataError naming ``url`` and what is wrong."""
    try:
        index = json.loads(content)
        if index["__kind__"] != KIND or index["wids_version"] != 1:
            raise ValueError(f"it is of kind {index['__kind__']}, version {index['wids_version']}, not {KIND}, 1")
        return _entries(index["shardlist"])
    except (ValueError, KeyError, TypeError) as error:
        cause = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{url}: not a usable index of shards ({cause}); {REMEDY}") from error


def _entries(shardlist: list[dict]) -> dict[str, Entry]:
    entries = {}
    for one in shardlist:
        name = basename(one["url"])
        if name in entries:
            raise ValueError(f"{name} is listed twice")
        entries[name] = _entry(name, one)
    return entries


def _entry(name: str, one: dict) -> Entry:
    samples, size, checksum = one["nsamples"], one["filesize"], one.get("sha256")
    if type(samples) is not int or type(size) is not int or samples < 1 or size < 1:
        raise ValueError(f"{name}: nsamples={samples!r} and filesize={size!r} must be integers above 0")
    if checksum is not None and not re.fullmatch("[0-9a-f]{64}", checksum):
        raise ValueError(f"{name}: sha256={checksum!r} must be 64 hexadecimal digits")
    return Entry(samples, size, checksum)


def _look_up(entries: dict[str, Entry], shard: str, index: str) -> Entry:
    if (name := basename(shard)) not in entries:
        raise DataError(f"{index}: does not list {name}, so it is not the index of these shards; {REMEDY}")
    return entries[name]


def basename(url: str) -> str:
    """The file name at the end of a path or URL."""
    return url.rpartition("/")[2]


def build(storage: Storage, shards: Sequence[str], watch: Callable[[Sequence[str]], Iterable[str]] = iter) -> Index:
    """The index of shards of one folder and prefix; reads every shard through once, as ``watch`` hands them out.

    DataError for a shard that is not whole, ValueError for shards that do not share one index.
    """
    if len(places := sorted({place(shard) for shard in shards})) != 1:
        raise ValueError(f"these shards have no common index, but {', '.join(places)}; give the sets one by one")
    return content(shards[0], {basename(shard): measure(storage, shard) for shard in watch(shards)})


def content(shard: str, entries: dict[str, Entry], **more) -> Index:
    """What the index of the set with this shard holds; ``more`` goes beside the list."""
    name = PARTS.fullmatch(shard)["prefix"]
    shardlist = [
        {"url": url, "nsamples": entry.samples, "filesize": entry.bytes, "sha256": entry.sha256}
        for url, entry in entries.items()
    ]
    return {"__kind__": KIND, "wids_version": 1, "name": name, **more, "shardlist": shardlist}


def dumps(index: Index) -> bytes:
    """The bytes of an index file, equal for equal indexes."""
    return (json.dumps(index, indent=1) + "\n").encode()


def measure(storage: Storage, shard: str) -> Entry:
    """Samples, bytes and checksum of one shard, in one pass."""
    hashing = _Hashing(storage)
    samples = sum(1 for _ in tar.samples(hashing, shard))
    return Entry(samples, hashing.bytes, hashing.digest.hexdigest())


class _Hashing:
    """A storage for one shard that hashes and counts all bytes of it, those that its reader leaves as well."""

    def __init__(self, storage: Storage):
        self.storage, self.digest, self.bytes = storage, hashlib.sha256(), 0

    def open(self, url: str, sha256: str | None = None) -> "_Hashing":
        self.stream: BinaryIO = self.storage.open(url, sha256=sha256)
        return self

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.digest.update(block)
        self.bytes += len(block)
        return block

    def __enter__(self) -> "_Hashing":
        self.stream.__enter__()
        return self

    def __exit__(self, kind, *details) -> None:
        while kind is None and self.read(1 << 20):
            pass
        self.stream.__exit__(kind, *details)


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    url: str = words.option("the shards: a path or URL, x-{000000..000031}.tar or *.tar")
    out: str | None = words.option("file or URL of the index; null: beside the shards", default=None)


def main(options: Options) -> None:
    """Make the index of the shards and say where it is."""
    storage = Storage()
    shards = storage.expand(options.url, "url")
    out = options.out or place(shards[0])
    entries = build(storage, shards, partial(track, description="index", console=Console(stderr=True)))
    folder, _, name = out.rpartition("/")
    target = destination.at(folder)
    target.prepare()
    destination.write(target, name, dumps(entries))
    total = sum(one["nsamples"] for one in entries["shardlist"])
    print(f"{out}: {len(shards)} shards, {total} samples")


if __name__ == "__main__":
    words.main(Options, main, "python -m asgd.data.index url=PATTERN [out=FILE]", "nothing has been written")
