"""Who reads what: pure functions of (seed, epoch, rank, workers), which look at no clock, process or environment."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from asgd.seeds import rng


@dataclass(frozen=True)
class Part:
    """Samples ``first``, ``first + step``, ... of the samples of ``shards`` (numbers) read one after another."""

    shards: tuple[int, ...]
    first: int = 0
    step: int = 1

    def divide(self, number: int, parts: int) -> "Part":
        """The ``number``-th of so many disjoint parts: whole shards while there are enough, else single samples."""
        if self.step == 1 and len(self.shards) >= parts:
            return Part(self.shards[number::parts])
        return Part(self.shards, self.first + number * self.step, self.step * parts)

    def samples(self, counts: Sequence[int]) -> int:
        """How many these are, given the number of samples in each shard of the data set."""
        return len(range(self.first, sum(counts[shard] for shard in self.shards), self.step))


@dataclass(frozen=True)
class Chosen:
    """These samples (``numbers``, over the whole data set), in this order."""

    numbers: Sequence[int]

    def divide(self, number: int, parts: int) -> "Chosen":
        """The ``number``-th of so many disjoint parts."""
        return Chosen(self.numbers[number::parts])

    def samples(self, counts: Sequence[int]) -> int:
        return len(self.numbers)


def part_of(seed: int, epoch: int, shards: int, rank: int, workers: int) -> Part:
    """What worker ``rank`` (1..workers) reads in an epoch; over all workers every sample exactly once."""
    order = rng(seed, "shards", epoch).permutation(shards)
    return Part(tuple(order.tolist())).divide(rank - 1, workers)


def resume(batches: Sequence[int], done: int) -> tuple[list[int], int]:
    """Loaders with so many ``batches`` each take turns; after ``done`` batches: (done by each, whose turn it is)."""
    turns = [loader for _, loader in sorted((index, loader) for loader, n in enumerate(batches) for index in range(n))]
    done_by = Counter(turns[:done])
    return [done_by[loader] for loader in range(len(batches))], turns[done]
