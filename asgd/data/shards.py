"""Labelled images in WebDataset shards: CIFAR-10, Tiny-ImageNet, ImageNet and your own.

A sample goes through: plan (which shards), tar (undecoded files), shuffle buffer, batches of undecoded samples, and
only then decoding and augmentation; so batches that are left out cost no decoding.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from random import Random

import numpy as np
import torch
from PIL import Image
from webdataset.filters import shuffle as shuffle_filter

from asgd.data import decode, loader, options, plan, tar
from asgd.data.batch import Batch
from asgd.data.loader import Item
from asgd.data.tar import DataError, Sample
from asgd.data.urls import expand
from asgd.seeds import rng, torch_seed

Transform = Callable[[Image.Image, np.random.Generator], torch.Tensor]
Addressed = tuple[int, int, Sample]  # number of the shard, place in it, the undecoded sample

log = logging.getLogger(__name__)


class Shards:
    """Images float32 [n, 3, size, size] and labels int64 [n] from shards of ``KEY.jpg|jpeg|png`` and ``KEY.cls``.

    An epoch permutes the shards and deals whole ones to workers, and a worker's to its ``loaders`` processes; where
    there are fewer shards than readers, readers share them sample by sample. ``shuffle`` is the number of undecoded
    samples each reader mixes. Broken samples: see ``on_error`` (stop or skip); a truncated shard always stops.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None,
        val_url: str | Sequence[str] | None,
        batch_size: int,
        classes: int,
        size: int,
        shape: tuple[int, ...],
        augment: Transform,
        transform: Transform,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        seed: int = 0,
        eval_batch_size: int = 256,
        shuffle: int = 1000,
        loaders: int = 0,
        on_error: str = "stop",
        samples: int | None = None,
    ):
        options.at_least(1, batch_size=batch_size, classes=classes, size=size, eval_batch_size=eval_batch_size)
        options.at_least(0, seed=seed, shuffle=shuffle, loaders=loaders)
        options.one_of(("stop", "skip"), on_error=on_error)
        if samples is not None:
            options.at_least(1, samples=samples)
        if tuple(shape) != (3, size, size):
            raise ValueError(f"dataset.shape={list(shape)}: must be [3, {size}, {size}], give only dataset.size")
        self.url, self.val_url, self.shape = url, val_url, tuple(shape)
        self.augment, self.transform, self.loss = augment, transform, loss
        self.batch_size, self.eval_batch_size, self.classes = batch_size, eval_batch_size, classes
        self.seed, self.shuffle, self.loaders, self.on_error, self._samples = seed, shuffle, loaders, on_error, samples

    @cached_property
    def _train(self) -> list[str]:
        return expand(self.url, "dataset.url")

    @cached_property
    def _val(self) -> list[str]:
        return expand(self.val_url, "dataset.val_url")

    @cached_property
    def _counts(self) -> list[int]:
        return [tar.count(shard) for shard in self._train]

    def samples(self) -> int:
        """The option ``samples`` if given, else counted once from the headers of all shards."""
        return self._samples or sum(self._counts)

    def check(self) -> None:
        """Every shard is there; the first of each set is whole, has labels 0..classes-1 and images that decode."""
        for option, shards, transform in (
            ("dataset.url", self._train, self.augment),
            ("dataset.val_url", self._val, self.transform),
        ):
            unreadable = [shard for shard in shards if not os.access(shard, os.R_OK)]
            if unreadable:
                raise ValueError(f"{option}: cannot read {unreadable[0]} (permissions?)")
            self._check_shard(shards[0], transform)

    def _check_shard(self, shard: str, transform: Transform) -> None:
        decoded = None
        for sample in tar.samples(shard):
            try:
                decode.label(sample, self.classes)
                decoded = decode.image(sample) if decoded is None else decoded
            except DataError:
                if self.on_error == "stop":
                    raise
        if decoded is None:
            raise DataError(f"{shard}: not one of its samples has a label in 0..{self.classes - 1} and an image")
        shape = tuple(transform(decoded, rng(self.seed, "check")).shape)
        if shape != self.shape:
            raise ValueError(f"the augmentation gives inputs of shape {shape}: dataset.shape says {self.shape}")

    def batches(self, rank: int, workers: int, start: int = 0) -> Iterator[Batch]:
        """Endless batches of worker ``rank``; each loader's last batch of an epoch may be smaller.

        Leaving out ``start`` batches reads headers, and the bytes of one epoch's part, but decodes nothing. With
        ``on_error=skip`` batches get smaller by their broken samples; one without a good sample is left out.
        """
        options.worker(rank, workers)
        if len(self._train) < workers:
            log.warning("%d shards for %d workers: each reads all, keeps its share", len(self._train), workers)
        epoch, index, skips, turn = self._position(rank, workers, start)
        read = partial(self._read, rank, workers)
        if self.loaders:
            epochs = loader.in_processes(read, epoch, skips, turn, (self.batch_size, *self.shape))
        else:
            epochs = loader.in_this_process(read, epoch, index)
        with closing(epochs):
            yield from self._numbered(epochs, epoch, index)
        raise options.no_samples(rank, workers, sum(self._counts))

    def _numbered(self, epochs: Iterator[Iterator[Item]], epoch: int, index: int) -> Iterator[Batch]:
        """Batches with true epoch, index and skipped; ends only after a whole epoch without a batch."""
        skipped = 0
        for items in epochs:
            useless = index == 0
            for batch, faults in items:
                skipped += self._log(faults)
                if batch is not None:
                    yield replace(batch, epoch=epoch, index=index, skipped=skipped)
                    useless, skipped = False, 0
                index += 1
            if useless:
                return
            epoch, index = epoch + 1, 0

    def evaluation(self) -> Iterator[Batch]:
        """The validation set once in file order, decoded by ``loaders`` threads where that is more than one."""
        undecoded = ((0, 0, sample) for shard in self._val for sample in tar.samples(shard))
        attempt = partial(self._attempt, self.transform, 0)
        with ThreadPoolExecutor(self._readers) as pool:
            for index, chunk in enumerate(_chunks(undecoded, self.eval_batch_size)):
                batch, faults = _collate(pool.map(attempt, chunk))
                self._log(faults)
                if batch is not None:
                    yield replace(batch, index=index, skipped=len(faults))

    def _position(self, rank: int, workers: int, start: int) -> tuple[int, int, list[int], int]:
        """Where ``start`` batches end: epoch, batches done in it, the same by loader, the loader whose turn it is."""
        epoch = 0
        while start:
            part = plan.part_of(self.seed, epoch, len(self._train), rank, workers)
            parts = [part.divide(number, self._readers) for number in range(self._readers)]
            batches = [-(-each.samples(self._counts) // self.batch_size) for each in parts]
            if not sum(batches):
                raise options.no_samples(rank, workers, sum(self._counts))
            if start < sum(batches):
                return epoch, start, *plan.resume(batches, start)
            epoch, start = epoch + 1, start - sum(batches)
        return epoch, 0, [0] * self._readers, 0

    @property
    def _readers(self) -> int:
        return max(self.loaders, 1)

    def _read(self, rank: int, workers: int, epoch: int, reader: int, skip: int) -> Iterator[Item]:
        """One reader's part of one epoch, without its first ``skip`` batches."""
        part = plan.part_of(self.seed, epoch, len(self._train), rank, workers).divide(reader, self._readers)
        undecoded = self._stream(part)
        if self.shuffle:
            order = Random(torch_seed(self.seed, "shuffle", epoch, rank, reader))
            undecoded = shuffle_filter(self.shuffle, initial=self.shuffle, rng=order)(undecoded)
        for chunk in islice(_chunks(undecoded, self.batch_size), skip, None):
            yield _collate(map(partial(self._attempt, self.augment, epoch), chunk))

    def _stream(self, part: plan.Part) -> Iterator[Addressed]:
        everything = (
            (number, place, sample)
            for number in part.shards
            for place, sample in enumerate(tar.samples(self._train[number]))
        )
        return islice(everything, part.first, None, part.step)

    def _attempt(self, transform: Transform, epoch: int, addressed: Addressed) -> tuple[torch.Tensor, int] | str:
        """(input, label), or with ``on_error=skip`` what is wrong with the sample."""
        number, place, sample = addressed
        try:
            label, image = decode.label(sample, self.classes), decode.image(sample)
        except DataError as error:
            if self.on_error == "stop":
                raise
            return str(error)
        return transform(image, rng(self.seed, "augment", epoch, number, place)), label

    @staticmethod
    def _log(faults: list[str]) -> int:
        for fault in faults:
            log.warning("skipped: %s", fault)
        return len(faults)


def _chunks(samples: Iterator[Addressed], size: int) -> Iterator[list[Addressed]]:
    while chunk := list(islice(samples, size)):
        yield chunk


def _collate(attempts: Iterable[tuple[torch.Tensor, int] | str]) -> Item:
    attempts = list(attempts)
    faults = [attempt for attempt in attempts if isinstance(attempt, str)]
    good = [attempt for attempt in attempts if not isinstance(attempt, str)]
    if not good:
        return None, faults
    inputs, labels = zip(*good, strict=True)
    return Batch(torch.from_numpy(np.stack(inputs)), torch.tensor(labels)), faults  # torch.stack would wait for threads
