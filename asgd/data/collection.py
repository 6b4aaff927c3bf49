"""What samples are read from: numbered shards, which are tar archives or groups of the files in a folder."""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from asgd.data import index, tar, urls
from asgd.data.errors import DataError
from asgd.data.storage import Storage
from asgd.data.tar import IMAGES, LABEL, Sample
from asgd.seeds import rng

GROUP = 1000  # files of a folder that are read as one shard
MAKE_ONE = "make one: python -m asgd.data.index url=..."

log = logging.getLogger(__name__)


class Collection(Protocol):
    """Undecoded samples in numbered shards, equal in every process. ``counts`` [shards] may have to be found out."""

    counts: list[int]

    def __len__(self) -> int: ...

    def check(self) -> None:
        """ValueError for what is missing, as far as can be known without reading it all."""

    def samples(self, number: int) -> Iterator[Sample]:
        """The samples of one shard, always in the same order."""


class Tars:
    """WebDataset shards: ``url`` is what the user gave as ``option``."""

    def __init__(self, storage: Storage, url: str | Sequence[str] | None, option: str):
        self.storage, self.url, self.option = storage, url, option

    @cached_property
    def urls(self) -> list[str]:
        return self.storage.expand(self.url, self.option)

    @cached_property
    def entries(self) -> dict[str, index.Entry]:
        return index.find(self.storage, self.urls)

    @cached_property
    def counts(self) -> list[int]:
        """From the index beside the shards; without one, from the headers of all shards."""
        known = self.entries
        if far := sum(not urls.is_local(url) for url in self.urls if url not in known):
            log.warning("%s: %d shards have no index: all are read to count samples; %s", self.option, far, MAKE_ONE)
        return [known[url].samples if url in known else tar.count(self.storage, url) for url in self.urls]

    def __len__(self) -> int:
        return len(self.urls)

    def check(self) -> None:
        sizes = self.storage.check(self.urls, self.option)
        for url, known in self.entries.items():
            if known.bytes != sizes[url]:
                raise ValueError(
                    f"{self.option}: {url} has {sizes[url]:,} bytes, but {known.bytes:,} by its index "
                    f"{index.place(url)}; {index.REMEDY}"
                )

    def samples(self, number: int) -> Iterator[Sample]:
        url = self.urls[number]
        if (known := self.entries.get(url)) is None:
            return tar.samples(self.storage, url)
        return counted(tar.samples(self.storage, url, known.sha256), known.samples, url)


def counted(samples: Iterator[Sample], expected: int, url: str) -> Iterator[Sample]:
    """The samples; DataError unless they are as many as the index says."""
    found = 0
    for found, sample in enumerate(samples, start=1):
        if found > expected:
            break
        yield sample
    if found != expected:
        more = " or more" * (found > expected)
        raise DataError(f"{url}: {found}{more} samples, but {expected} by {index.place(url)}; {index.REMEDY}")


class Files:
    """A folder with a subfolder of images for each class, whose labels are 0, 1, ... in the order of their names."""

    def __init__(self, path: str | None, option: str):
        self.path, self.option = path, option

    @cached_property
    def classes(self) -> list[str]:
        if not self.path or not os.path.isdir(self.path):
            raise ValueError(f"{self.option}={self.path}: must be a folder with one subfolder of images for each class")
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """(path below the folder, label), mixed by an order that never changes, so that groups hold all classes."""
        found = [
            (os.path.relpath(os.path.join(folder, name), self.path), label)
            for label, each in enumerate(self.classes)
            for folder, _, names in sorted(os.walk(os.path.join(self.path, each)))
            for name in sorted(names)
            if name.rpartition(".")[2].lower() in IMAGES
        ]
        return [found[place] for place in rng(0, "folder").permutation(len(found)).tolist()]

    @cached_property
    def counts(self) -> list[int]:
        return [len(self.files[first : first + GROUP]) for first in range(0, len(self.files), GROUP)]

    def __len__(self) -> int:
        return len(self.counts)

    def check(self) -> None:
        empty = sorted({*range(len(self.classes))} - {label for _, label in self.files})
        if empty or not self.files:
            name = self.classes[empty[0]] if empty else "its subfolders"
            raise ValueError(f"{self.option}={self.path}: {name} holds no images ({', '.join(IMAGES)})")

    def samples(self, number: int) -> Iterator[Sample]:
        for name, label in self.files[number * GROUP : (number + 1) * GROUP]:
            content = Path(self.path, name).read_bytes()
            yield Sample(self.path, name, ((name.rpartition(".")[2].lower(), content), (LABEL, b"%d" % label)))
