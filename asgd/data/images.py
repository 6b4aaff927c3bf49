"""Labelled images in numbered shards: who reads what, in this process or in loader processes, and the checks before."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice

import torch

from asgd.data import decode, loader, options, plan
from asgd.data.augment import Normalise
from asgd.data.batch import Batch, Dataset
from asgd.data.collection import Collection
from asgd.data.leases import OPEN, Lease, LeasedBatches, Leases
from asgd.data.loader import Item
from asgd.data.partition import Deal, choose
from asgd.data.reading import Reader
from asgd.data.tar import DataError
from asgd.seeds import rng

log = logging.getLogger(__name__)

UNKNOWN = "workers=auto: shards are dealt to a known number of workers; use dataset.assignment=leased"

CHECKED = 1000  # samples of each set whose labels are looked at before a run


class Images(Dataset):
    """Images float32 [n, *shape] and labels int64 [n], from one collection to train on and one to validate.

    ``assignment=static``: an epoch permutes the shards and deals whole ones to workers, and a worker's to its
    ``loaders`` processes; where there are fewer shards than readers, readers share them sample by sample.
    ``assignment=leased``: the server gives out shards (``asgd.data.leases``), which ``loaders`` threads decode.
    ``partition`` gives each worker samples of its own (``asgd.data.partition``), all held in memory, undecoded.
    ``shuffle`` is the number of undecoded samples each reader mixes, ``ahead`` that of batches read ahead by a worker
    of a real engine. Broken samples: see ``on_error`` (stop or skip); a truncated shard always stops.
    """

    def __init__(
        self, train: Collection, val: Collection, batch_size: int, classes: int, size: int, shape: tuple[int, ...],
        augment: decode.Augment, transform: decode.Augment, normalise: Normalise,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        seed: int = 0, eval_batch_size: int = 256, shuffle: int = 1000, loaders: int = 0, ahead: int = 2,
        on_error: str = "stop", samples: int | None = None, assignment: str = "static", top_k: int | None = None,
        partition: str = "iid", alpha: float | None = None, shards_per_worker: int | None = None,
    ):  # fmt: skip
        options.at_least(1, batch_size=batch_size, classes=classes, size=size, eval_batch_size=eval_batch_size)
        options.at_least(0, seed=seed, shuffle=shuffle, loaders=loaders, ahead=ahead)
        options.one_of(("stop", "skip"), on_error=on_error)
        options.one_of(("static", "leased"), assignment=assignment)
        if samples is not None:
            options.at_least(1, samples=samples)
        options.top_k(top_k, classes)
        if tuple(shape[1:]) != (size, size):
            raise ValueError(f"dataset.shape={list(shape)}: must be [{shape[0]}, {size}, {size}], give dataset.size")
        self.train = Reader(train, batch_size, classes, augment, seed, shuffle, on_error)
        self.val = Reader(val, eval_batch_size, classes, transform, seed, 0, on_error)
        self.shape, self.normalise, self.loss, self.top_k = tuple(shape), normalise, loss, top_k
        self.batch_size, self.eval_batch_size, self.classes = batch_size, eval_batch_size, classes
        self.seed, self.loaders, self.ahead, self._samples = seed, loaders, ahead, samples
        self.partition = choose(partition, alpha=alpha, shards_per_worker=shards_per_worker)
        self.assignment, self.shares, self._deals = assignment, partition != "iid", {}
        if assignment == "leased" and self.shares:
            raise ValueError(f"dataset.assignment=leased gives any shard to any worker; partition={partition} does not")

    @property
    def counts(self) -> list[int]:
        """Samples in each shard to train on."""
        return self.train.collection.counts

    def samples(self) -> int:
        """The option ``samples`` if given, else what the index or all the shards say."""
        return self._samples or sum(self.counts)

    def check(self) -> None:
        """Every shard is there; the first samples of each set have labels 0..classes-1, and one an image."""
        for reader in (self.train, self.val):
            reader.collection.check()
            self._check_samples(reader)

    def _check_samples(self, reader: Reader) -> None:
        inputs = None
        for sample in islice(reader.collection.samples(0), CHECKED):
            try:
                decode.label(sample, self.classes)
                if inputs is None:
                    inputs = decode.decoded(sample, reader.augment, rng(self.seed, "check"))
            except DataError:
                if reader.on_error == "stop":
                    raise
        if inputs is None:
            raise DataError(f"{sample.shard}: no sample has a label in 0..{self.classes - 1} and an image")
        if inputs.shape != self.shape:
            raise ValueError(f"the augmentation gives inputs of shape {inputs.shape}: dataset.shape says {self.shape}")

    # Leased

    def leases(self, workers: int, least: int) -> Leases:
        """The server's book of leases."""
        parts = -(-OPEN * workers // len(self.train.collection))
        return Leases(lambda: [-(-count // self.batch_size) for count in self.counts], self.seed, parts, least)

    def leased(self, ahead: int = 0) -> LeasedBatches:
        """The batches of the leases that a worker is given, so many read ahead."""
        return LeasedBatches(partial(self._lease, []), ahead)

    def _lease(self, faults: list[str], lease: Lease) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._readers) as pool:
            items = enumerate(self.train.lease(lease, pool.map), lease.base + lease.first)
            yield from self._good(((lease.epoch, index, item) for index, item in items), faults)

    # Static

    def batches(self, rank: int, workers: int, start: int = 0) -> Iterator[Batch]:
        """Endless batches of worker ``rank``; each loader's last batch of an epoch may be smaller.

        Leaving out ``start`` batches reads headers, and the bytes of one epoch's part, but decodes nothing. With
        ``on_error=skip`` batches get smaller by their broken samples; one without a good sample is left out.
        """
        options.worker(rank, workers)
        if workers is None:
            raise ValueError(UNKNOWN)
        if (shards := len(self.train.collection)) < workers and not self.shares and self.assignment == "static":
            log.warning("%d shards for %d workers: each reads all, keeps its share", shards, workers)
        epoch, index, skips, turn = self._position(rank, workers, start)
        read = partial(self._read, rank, workers)
        if self.loaders:
            epochs = loader.in_processes(read, epoch, skips, turn, (self.batch_size, *self.shape))
        else:
            epochs = loader.in_this_process(read, epoch, index)
        with closing(epochs):
            yield from self._good(_numbered(epochs, epoch, index), [])
        raise options.no_samples(rank, workers, sum(self.counts))

    def _position(self, rank: int, workers: int, start: int) -> tuple[int, int, list[int], int]:
        """Where ``start`` batches end: epoch, batches done in it, the same by loader, the loader whose turn it is."""
        epoch = 0
        while start:
            part = self._part(rank, workers, epoch)
            parts = [part.divide(number, self._readers) for number in range(self._readers)]
            batches = [-(-each.samples(self.counts) // self.batch_size) for each in parts]
            if not sum(batches):
                raise options.no_samples(rank, workers, sum(self.counts))
            if start < sum(batches):
                return epoch, start, *plan.resume(batches, start)
            epoch, start = epoch + 1, start - sum(batches)
        return epoch, 0, [0] * self._readers, 0

    def _part(self, rank: int, workers: int, epoch: int) -> plan.Part | plan.Chosen:
        if not self.shares:
            return plan.part_of(self.seed, epoch, len(self.train.collection), rank, workers)
        return plan.Chosen(self._deal(workers).order(epoch, rank))

    def _deal(self, workers: int) -> Deal:
        """Who owns which sample; reads all of them at first use."""
        if workers not in self._deals:
            self._deals[workers] = self.partition.deal(self.train.labels(), workers, self.seed)
        return self._deals[workers]

    @property
    def _readers(self) -> int:
        return max(self.loaders, 1)

    def _read(self, rank: int, workers: int, epoch: int, reader: int, skip: int) -> Iterator[Item]:
        """One reader's part of one epoch, without its first ``skip`` batches."""
        part = self._part(rank, workers, epoch).divide(reader, self._readers)
        return self.train.part(part, epoch, (rank, reader), skip)

    # What is handed out

    def _good(self, items: Iterator[tuple[int, int, Item]], faults: list[str]) -> Iterator[Batch]:
        """The batches of (epoch, index, item), normalised; ``faults`` are those since the last good batch."""
        for epoch, index, (batch, new) in items:
            for fault in new:
                log.warning("skipped: %s", fault)
            faults += new
            if batch is not None:
                yield Batch(self.normalise(batch.inputs), batch.targets, epoch, index, len(faults))
                faults.clear()

    def evaluation(self) -> Iterator[Batch]:
        """The validation set once in file order, decoded by ``loaders`` threads where that is more than one."""
        with ThreadPoolExecutor(self._readers) as pool:
            items = enumerate(self.val.in_order(pool.map))
            yield from self._good(((0, index, item) for index, item in items), [])


def _numbered(epochs: Iterator[Iterator[Item]], epoch: int, index: int) -> Iterator[tuple[int, int, Item]]:
    """(epoch, index in it, item); ends only after a whole epoch without a batch."""
    for items in epochs:
        useless = index == 0
        for item in items:
            useless &= item[0] is None
            yield epoch, index, item
            index += 1
        if useless:
            return
        epoch, index = epoch + 1, 0
