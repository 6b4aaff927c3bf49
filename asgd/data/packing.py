"""A set of shards on its way from a source to a destination, in a way that can be interrupted at any point.

Before a shard gets its name, the record ``PREFIX-packing.json`` knows its size and checksum, so a run that was killed
goes on with the next shard. At the end the record becomes the index.
"""

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asgd.data import destination, index, writing
from asgd.data.destination import Destination
from asgd.data.index import Entry
from asgd.data.sources import Source
from asgd.seeds import rng

THREADS, AHEAD = 8, 64  # pictures read at a time, and read before they are needed
SHOWN = 20  # broken pictures that are named
Result = TypeVar("Result")


@dataclass(frozen=True)
class Shape:
    """How the samples are laid out in shards; limits may be None."""

    split: str
    prefix: str
    shard_mb: float | None
    shard_samples: int | None
    seed: int | None

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+", self.prefix):
            raise ValueError(f"prefix={self.prefix}: must be of letters, digits, - and _")
        if self.shard_mb is not None and not self.shard_mb > 0:
            raise ValueError(f"shard_mb={self.shard_mb}: must be above 0, or null for no limit")
        if self.shard_samples is not None and self.shard_samples < 1:
            raise ValueError(f"shard_samples={self.shard_samples}: must be at least 1, or null for no limit")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be at least 0, or null for the source's order")

    def plan(self, source: Source) -> dict[str, Any]:
        """What decides on the bytes of the shards; equal plans may be continued."""
        limits = {"split": self.split, "seed": self.seed, "shard_mb": self.shard_mb}
        limits |= {"shard_samples": self.shard_samples, "layout": source.layout}
        return limits | {"samples": len(source.keys), "checksum": source.checksum()}

    def order(self, samples: int) -> list[int]:
        """The order of the source's samples in the shards."""
        everything = np.arange(samples) if self.seed is None else rng(self.seed, "pack").permutation(samples)
        return everything.tolist()

    def fill(self, file: BinaryIO, samples: Iterator[bytes]) -> tuple[int, bytes | None]:
        """One shard; see ``writing.fill``."""
        largest = math.inf if self.shard_mb is None else self.shard_mb * 1e6
        return writing.fill(file, samples, largest, self.shard_samples or math.inf)


class Packing:
    """``run`` writes what is missing of the set."""

    def __init__(self, source: Source, target: Destination, shape: Shape):
        self.source, self.target, self.shape = source, target, shape
        self.plan, self.classes = shape.plan(source), (json.dumps(source.classes, indent=1) + "\n").encode()
        self.record, self.index = f"{shape.prefix}-packing.json", index.filename(shape.prefix)
        self.console = Console(stderr=True)

    def run(self, verify: bool) -> dict[str, Entry]:
        """The shards by name, once all are written. ValueError for all that can be known before writing."""
        self._check_classes()
        entries = self._written()
        done = sum(entry.samples for entry in entries.values())
        if left := self.shape.order(len(self.source.keys))[done:]:
            self._check_room(left)
            if verify and not entries:
                self._verify()
            destination.write(self.target, "classes.json", self.classes)
            self._write(left, entries)
        self._finish(entries)
        return entries

    def _check_classes(self) -> None:
        """Sets in one folder have one list of classes."""
        if self.target.read("classes.json") not in (None, self.classes):
            raise ValueError(
                f"{self.target}/classes.json has other classes than the source, or in another order; "
                "give classes=FILE with a copy of it to take its labels, or choose another out="
            )

    def _written(self) -> dict[str, Entry]:
        """The shards that are there as planned, up to the first that is not."""
        known = [self._recorded(name) for name in (self.record, self.index)]
        entries = known[0] or known[1]
        foreign = set(filter(self._is_shard, self.target.names())) - set(known[0]) - set(known[1])
        if foreign:
            raise ValueError(self._held(f"holds {min(foreign)}, which is not of this set"))
        whole = {}
        for name, entry in entries.items():
            if self.target.size(name) != entry.bytes:
                break
            whole[name] = entry
        return whole

    def _recorded(self, name: str) -> dict[str, Entry]:
        """The shards on record; ValueError unless they were packed as they would be now."""
        if (content := self.target.read(name)) is None:
            return {}
        entries = index.parse(content, f"{self.target}/{name}")
        if (before := json.loads(content).get("packed")) is None:
            raise ValueError(self._held(f"{name} is that of shards which were made in another way"))
        for part, value in self.plan.items():
            if before.get(part) != value:
                raise ValueError(self._held(f"holds shards of {part}={before.get(part)}, here it is {value}"))
        return entries

    def _held(self, what: str) -> str:
        return f"{self.target}: {what}; choose another out= or prefix=, or remove {self.shape.prefix}-* there"

    def _is_shard(self, name: str) -> bool:
        return re.fullmatch(rf"{re.escape(self.shape.prefix)}-\d+\.tar", name) is not None

    def _check_room(self, left: list[int]) -> None:
        """Where the sizes of the pictures are known, and the room for them."""
        free = self.target.free()
        needed = sum(writing.least(self.source.sizes[number]) for number in left) if self.source.sizes else 0
        if free is not None and needed > free:
            raise ValueError(f"{self.target}: {needed / 1e6:.0f} MB to write and {free / 1e6:.0f} MB free; make room")

    def _verify(self) -> None:
        """Every picture has a header that can be read."""
        with closing(self._watched("verify", self._fault, range(len(self.source.keys)))) as results:
            faults = [fault for fault in results if fault]
        if faults:
            listed = "\n  ".join(faults[:SHOWN])
            raise ValueError(f"{len(faults)} broken pictures; replace or remove them:\n  {listed}")

    def _fault(self, number: int) -> str | None:
        try:
            self.source.check(number)
        except ValueError as error:
            return str(error)
        return None

    def _write(self, left: list[int], entries: dict[str, Entry]) -> None:
        """Shard by shard: the file, its entry in the record, its name."""
        with closing(self._watched("pack", self._members, left)) as samples:
            first = next(samples)
            while first is not None:
                name = f"{self.shape.prefix}-{len(entries):06d}.tar"
                with self.target.temporary(name) as file:
                    count, first = self.shape.fill(file, chain([first], samples))
                    entries[name] = writing.measured(file, count)
                    destination.write(self.target, self.record, self._listing(entries))
                    self.target.publish(file, name)

    def _members(self, number: int) -> bytes:
        suffix, content = self.source.picture(number)
        label = str(self.source.labels[number]).encode()
        return writing.members(self.source.keys[number], {suffix: content, "cls": label})

    def _finish(self, entries: dict[str, Entry]) -> None:
        if self.target.read(self.index) != self._listing(entries):
            destination.write(self.target, self.index, self._listing(entries))
        if self.target.size(self.record) is not None:
            self.target.remove(self.record)

    def _listing(self, entries: dict[str, Entry]) -> bytes:
        return index.dumps(index.content(f"{self.shape.prefix}-000000.tar", entries, packed=self.plan))

    def _watched(self, what: str, call: Callable[[int], Result], numbers: Iterable[int]) -> Iterator[Result]:
        """The results of the calls, with a progress bar on a terminal's standard error."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        silent = not self.console.is_terminal
        bar = Progress(*columns, console=self.console, transient=True, disable=silent)
        with bar, closing(ahead(call, numbers)) as results:
            yield from bar.track(results, total=len(numbers), description=what)


def ahead(call: Callable[[int], Result], numbers: Iterable[int]) -> Iterator[Result]:
    """``map`` by threads which are a bounded number of calls ahead."""
    waiting, numbers = deque(), iter(numbers)
    pool = ThreadPoolExecutor(THREADS)
    try:
        waiting.extend(pool.submit(call, number) for number in islice(numbers, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(call, number) for number in islice(numbers, 1))
    finally:
        pool.shutdown(cancel_futures=True)
