"""From undecoded samples to batches of uint8 images: shuffle buffer, batches of samples, and only then decoding.

So batches that are left out cost no decoding. A ``Reader`` can be sent to another process.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from random import Random

import numpy as np
import psutil
import torch
from webdataset.filters import shuffle as shuffle_filter

from asgd.data import decode
from asgd.data.batch import Batch
from asgd.data.collection import Collection
from asgd.data.leases import Lease
from asgd.data.loader import Item
from asgd.data.plan import Chosen, Part
from asgd.data.tar import DataError, Sample
from asgd.seeds import rng, torch_seed

Addressed = tuple[int, int, Sample]  # number of the shard, place in it, the undecoded sample
Attempt = tuple[np.ndarray, int] | str  # (uint8 image, label), or what is wrong with the sample
HELD = 0.5  # of the machine's memory, at most


@dataclass
class Reader:
    """``shuffle`` undecoded samples are mixed, ``order`` addresses how; ``on_error`` is stop or skip."""

    collection: Collection
    batch_size: int
    classes: int
    augment: decode.Augment
    seed: int
    shuffle: int = 0
    on_error: str = "stop"

    def part(self, part: Part | Chosen, epoch: int, order: tuple[int, ...], skip: int = 0) -> Iterator[Item]:
        """The batches of one reader's part of an epoch, without the first ``skip``."""
        undecoded = self._chosen(part) if isinstance(part, Chosen) else self._stream(part)
        return self._items(undecoded, epoch, (epoch, *order), skip)

    def lease(self, lease: Lease, attempts: Callable = map) -> Iterator[Item]:
        """The batches of a lease; they depend on its epoch, shard and numbers only."""
        undecoded = self._stream(Part((lease.shard,)))
        return self._items(
            undecoded, lease.epoch, (lease.epoch, "shard", lease.shard), lease.first, lease.stop, attempts
        )

    def in_order(self, attempts: Callable) -> Iterator[Item]:
        """Everything once."""
        undecoded = self._stream(Part(tuple(range(len(self.collection)))))
        return (_collate(attempts(self._attempt(0), chunk)) for chunk in _chunks(undecoded, self.batch_size))

    def _items(self, undecoded, epoch: int, order: tuple, first: int, stop: int | None = None, attempts=map):
        if self.shuffle:
            mixed = Random(torch_seed(self.seed, "shuffle", *order))
            undecoded = shuffle_filter(self.shuffle, initial=self.shuffle, rng=mixed)(undecoded)
        chunks = _chunks(undecoded, self.batch_size)
        for chunk in islice(chunks, first, stop):
            yield _collate(attempts(self._attempt(epoch), chunk))
        next(chunks, None)  # where this is the end of a shard, it is looked at

    def _stream(self, part: Part) -> Iterator[Addressed]:
        everything = (
            (number, place, sample)
            for number in part.shards
            for place, sample in enumerate(self.collection.samples(number))
        )
        return islice(everything, part.first, None, part.step)

    def _chosen(self, part: Chosen) -> Iterator[Addressed]:
        return (self.held[number] for number in part.numbers)

    @cached_property
    def held(self) -> list[Addressed]:
        """All samples, undecoded, in memory."""
        limit, used, held = HELD * psutil.virtual_memory().total, 0, []
        for addressed in self._stream(Part(tuple(range(len(self.collection))))):
            used += sum(len(content) for _, content in addressed[2].files)
            if used > limit:
                raise ValueError(
                    f"dataset.partition: the samples need more than {limit / 1e9:.0f} GB, {HELD:.0%} of this machine's "
                    "memory; only a data set that fits can be divided by its labels. Use dataset.partition=iid"
                )
            held.append(addressed)
        return held

    def labels(self) -> np.ndarray:
        """int64 [n], of all samples; DataError for one that is broken."""
        return np.array([decode.label(sample, self.classes) for _, _, sample in self.held])

    def _attempt(self, epoch: int) -> Callable[[Addressed], Attempt]:
        def attempt(addressed: Addressed) -> Attempt:
            number, place, sample = addressed
            generator = rng(self.seed, "augment", epoch, number, place)
            try:
                return decode.decoded(sample, self.augment, generator), decode.label(sample, self.classes)
            except DataError as error:
                if self.on_error == "stop":
                    raise
                return str(error)

        return attempt


def _chunks(samples: Iterator[Addressed], size: int) -> Iterator[list[Addressed]]:
    while chunk := list(islice(samples, size)):
        yield chunk


def _collate(attempts: Iterable[Attempt]) -> Item:
    attempts = list(attempts)
    faults = [attempt for attempt in attempts if isinstance(attempt, str)]
    good = [attempt for attempt in attempts if not isinstance(attempt, str)]
    if not good:
        return None, faults
    inputs, labels = zip(*good, strict=True)
    return Batch(torch.from_numpy(np.stack(inputs)), torch.tensor(labels)), faults  # torch.stack would wait for threads
