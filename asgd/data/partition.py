"""Who owns which sample: equally distributed shares, or shares whose mix of classes differs from worker to worker.

Every sample belongs to exactly one worker, whatever the partition. All shares are equally large, to within one sample
(``ShardsPerWorker``: one sample per shard), so that all workers' epochs are equally long and the mean over the workers
is the mean over the data. Shares are pure functions of (labels, options, seed, workers).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Protocol

import numpy as np

from asgd.data import options
from asgd.seeds import rng


class Deal(Protocol):
    """What each worker reads: in every epoch ``size(rank)`` samples, in the order ``order(epoch, rank)``."""

    def size(self, rank: int) -> int: ...

    def order(self, epoch: int, rank: int) -> np.ndarray:
        """Sample numbers [size(rank)], int64; nobody may write them."""


class Partition(Protocol):
    """Shares of a data set with ``labels`` [n], whole numbers of any range."""

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        """The sample numbers of each worker, ascending: disjoint, together 0 .. n-1. ValueError where one is empty."""

    def deal(self, labels: np.ndarray, workers: int | None, seed: int) -> Deal:
        """``workers=None``: a number that is not known. ValueError where that does not do."""


@dataclass(frozen=True)
class DealtAnew:
    """One permutation of all ``samples`` per epoch; worker ``rank`` gets its entries rank-1, rank-1+workers, ..."""

    samples: int
    workers: int
    seed: int

    def size(self, rank: int) -> int:
        return len(range(rank - 1, self.samples, self.workers))

    def order(self, epoch: int, rank: int) -> np.ndarray:
        return order(self.seed, epoch, self.samples)[rank - 1 :: self.workers]


@dataclass(frozen=True)
class All:
    """Each worker reads all ``samples``, in an order of its own: for any number of them, which may change."""

    samples: int
    seed: int

    def size(self, rank: int) -> int:
        return self.samples

    def order(self, epoch: int, rank: int) -> np.ndarray:
        return rng(self.seed, "order", epoch, rank).permutation(self.samples)


@lru_cache(maxsize=32)
def order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The permutation [samples] of an epoch, which nobody may write: workers in one process share it."""
    return rng(seed, "order", epoch).permutation(samples)


@dataclass(frozen=True)
class Kept:
    """Each worker keeps its share and permutes it in every epoch."""

    shares: list[np.ndarray]
    seed: int

    def size(self, rank: int) -> int:
        return len(self.shares[rank - 1])

    def order(self, epoch: int, rank: int) -> np.ndarray:
        return rng(self.seed, "order", epoch, rank).permutation(self.shares[rank - 1])


@dataclass(frozen=True)
class Iid:
    """Equally distributed: all samples are shuffled and dealt, anew in each epoch. Called, the shares of epoch 0."""

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        check(labels, workers, least=workers)
        first = self.deal(labels, workers, seed)
        return [np.sort(first.order(0, rank)) for rank in range(1, workers + 1)]

    def deal(self, labels: np.ndarray, workers: int | None, seed: int) -> Deal:
        return All(len(labels), seed) if workers is None else DealtAnew(len(labels), workers, seed)


class _Fixed:
    """What partitions have in common whose workers keep their samples."""

    def deal(self, labels: np.ndarray, workers: int | None, seed: int) -> Deal:
        if workers is None:
            raise ValueError("workers=auto: shares that workers keep need their number; use dataset.partition=iid")
        return Kept(self(labels, workers, seed), seed)


@dataclass(frozen=True)
class Dirichlet(_Fixed):
    """Each worker draws a mix of classes q ~ Dir(alpha p), with p the classes' shares of the data, and then samples.

    A share's part of class c has mean p_c and variance p_c (1 - p_c) / (alpha + 1): alpha near 0 gives every worker
    one class, infinity the mix of the data. (Other conventions draw from Dir(a, ..., a); that is alpha = a * classes.)
    Workers draw one after another, in random order, without replacement; where a class is used up, q goes on over the
    classes that are left. So the last ones take what remains and follow the law least.
    Source: Hsu, Qi, Brown 2019, "Measuring the effects of non-identical data distribution for federated visual
    classification", arXiv:1909.06335, section 3.1.
    """

    alpha: float

    def __post_init__(self):
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 < self.alpha < math.inf:
            raise ValueError(f"dataset.alpha={self.alpha!r}: must be a number above 0, for example 0.1, 1 or 100")

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        check(labels, workers, least=workers)
        generator = rng(seed, "partition")
        members, counts = _by_class(labels, generator)
        taken = self._draw(counts, workers, generator)
        owners = np.repeat(np.tile(np.arange(workers), len(counts)), taken.T.ravel())
        return _shares(members, owners, workers)

    def _draw(self, counts: np.ndarray, workers: int, generator: np.random.Generator) -> np.ndarray:
        """How many samples [workers, classes] each worker takes of each class, of ``counts`` [classes] there are."""
        left, taken = counts.copy(), np.zeros((workers, len(counts)), np.int64)
        sizes = _equal(counts.sum(), workers)
        for worker in generator.permutation(workers):
            mix = generator.dirichlet(self.alpha * counts / counts.sum())
            taken[worker] = _take(sizes[worker], mix, left, generator)
            left -= taken[worker]
        return taken


@dataclass(frozen=True)
class ShardsPerWorker(_Fixed):
    """Samples sorted by label are cut into workers x ``shards_per_worker`` equal shards; each worker gets that many.

    A worker has so few classes: at most ``shards_per_worker`` where the cuts fall between classes, and one more for
    each shard that a cut within it gives two.
    Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data",
    arXiv:1602.05629, section 3, with 2 shards of 300 samples for each of 100 clients.
    """

    shards_per_worker: int

    def __post_init__(self):
        options.at_least(1, shards_per_worker=self.shards_per_worker)

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        number = workers * self.shards_per_worker
        check(labels, workers, least=number)
        generator = rng(seed, "partition")
        members, _ = _by_class(labels, generator)
        dealt = generator.permutation(number) // self.shards_per_worker
        return _shares(members, np.repeat(dealt, _equal(len(labels), number)), workers)


PARTITIONS = {"iid": Iid, "dirichlet": Dirichlet, "shards_per_worker": ShardsPerWorker}


def choose(name: str, **given: float | None) -> Partition:
    """The partition ``name`` with the options of its own; None stands for one that was not given.

    ValueError for another name, an option that is missing, or one that this partition would ignore.
    """
    options.one_of(PARTITIONS, partition=name)
    own = {field.name for field in fields(PARTITIONS[name])}
    values = {option: value for option, value in given.items() if value is not None}
    for option in own - values.keys():
        raise ValueError(f"dataset.partition={name} needs dataset.{option}, for example dataset.{option}=1")
    for option in values.keys() - own:
        raise ValueError(_ignored(name, option, values))
    return PARTITIONS[name](**values)


def _ignored(name: str, option: str, values: Mapping[str, float]) -> str:
    takers = [other for other, kind in PARTITIONS.items() if option in {field.name for field in fields(kind)}]
    remedy = f"leave it out, or set dataset.partition={' or '.join(takers)}" if takers else "there is no such option"
    return f"dataset.{option}={values[option]!r} has no meaning with dataset.partition={name}: {remedy}"


def needs_labels(name: str, classes: int) -> None:
    """ValueError for a data set without labels, ``classes`` 0, that is to be shared out by them."""
    options.one_of(PARTITIONS, partition=name)
    if name != "iid" and not classes:
        raise ValueError(f"dataset.partition={name}: this data set has no labels to share it out by; leave it at iid")


def check(labels: np.ndarray, workers: int, least: int) -> None:
    """ValueError unless ``labels`` [n] are whole numbers, and at least ``least``, so that nobody's share is empty."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"targets of shape {list(labels.shape)} and type {labels.dtype} are not labels: "
            "this data set can only be shared out with dataset.partition=iid"
        )
    if len(labels) < least:
        raise ValueError(
            f"{len(labels)} samples for {workers} workers: at least {least} are needed so that each gets its share; "
            "use fewer workers, fewer shards per worker or more data"
        )


def _by_class(labels: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The sample numbers [n] sorted by class, in random order within each, and the samples [classes] of each class."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = generator.permutation(len(labels))
    return shuffled[np.argsort(classes[shuffled], kind="stable")], counts


def _take(size: int, mix: np.ndarray, left: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``size`` samples by class, drawn by ``mix`` [classes]; what is not ``left`` is drawn again from the others."""
    taken = np.zeros_like(left)
    while missing := size - taken.sum():
        there = np.where(left > taken, mix, 0.0)
        if not there.sum():  # underflow: so small an alpha wants one class
            there[generator.choice(len(left), p=(left - taken) / (left - taken).sum())] = 1.0
        taken += np.minimum(generator.multinomial(missing, there / there.sum()), left - taken)
    return taken


def _equal(samples: int, parts: int) -> np.ndarray:
    """The sizes [parts] of equal parts; the first ones have one more where it does not divide."""
    return samples // parts + (np.arange(parts) < samples % parts)


def _shares(members: np.ndarray, owners: np.ndarray, workers: int) -> list[np.ndarray]:
    """Ascending sample numbers of each worker, where ``members[i]`` belongs to worker ``owners[i]`` (from 0)."""
    owner_of = np.empty_like(owners)
    owner_of[members] = owners
    ends = np.cumsum(np.bincount(owners, minlength=workers))[:-1]
    return np.split(np.argsort(owner_of, kind="stable"), ends)
