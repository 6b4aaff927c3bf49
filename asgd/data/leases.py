"""Leased shards (``dataset.assignment=leased``): the server gives each worker what to read next, shard by shard.

The batches of an epoch are numbered through, shard after shard in the epoch's order, and what is in a batch depends on
nothing but seed, epoch and number. So when a worker is gone, another one goes on after the last batch the server got:
no batch is lost, none counts twice, and a fast worker reads more shards than a slow one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from asgd.data.batch import Batch
from asgd.data.errors import DataError
from asgd.data.prefetch import prefetched
from asgd.seeds import rng

OPEN = 2  # leases of one worker, at least: the one it reads, and the next one to read ahead


class Lease(NamedTuple):
    """Batches ``first`` to before ``stop`` of a shard, which are ``base + first`` and so on of the epoch."""

    epoch: int
    shard: int
    base: int
    first: int
    stop: int

    def holds(self, epoch: int, number: int) -> bool:
        return self.epoch == epoch and self.first <= number - self.base < self.stop


class Leases:
    """The server's book of leases. ``count`` tells the batches in each shard; of each are made ``parts`` leases.

    A worker has two, and more where these do not have the batches that one of its rounds may take, ``least``.

    ``record(event, worker, lease)`` is told of every ``lease`` given and every rest given ``back``.
    """

    def __init__(self, count: Callable[[], Sequence[int]], seed: int, parts: int = 1, least: int = 1):
        self.count, self.seed, self.parts, self.least = count, seed, parts, least
        self.epoch, self.queue = 0, deque()
        self.open: dict[int, list[Lease]] = {}
        self.record: Callable[[str, int, Lease], None] = lambda *_: None

    @cached_property
    def batches(self) -> list[int]:
        """In each shard; it takes reading to know, and only a server needs to."""
        batches = list(self.count())
        if not sum(batches):
            raise ValueError("dataset.assignment=leased: the shards have no samples")
        return batches

    def grant(self, worker: int) -> tuple[Lease, ...]:
        """What the worker is to read after what it has."""
        mine, new = self.open.setdefault(worker, []), []
        while len(mine) < OPEN or sum(lease.stop - lease.first for lease in mine) < self.least:
            mine.append(self._next())
            new.append(mine[-1])
            self.record("lease", worker, mine[-1])
        return tuple(new)

    def done(self, worker: int, epoch: int, number: int) -> None:
        """The server has got what the worker made of its batches up to this one of the epoch, which it was given."""
        mine = self.open[worker]
        while not mine[0].holds(epoch, number):
            mine.pop(0)
        rest = mine[0]._replace(first=number - mine[0].base + 1)
        mine[:1] = [rest] if rest.first < rest.stop else []

    def gave(self, worker: int, epoch: int, number: int) -> bool:
        """Whether the worker was given this batch of the epoch, and has not done it."""
        return any(lease.holds(epoch, number) for lease in self.open.get(worker, []))

    def back(self, worker: int) -> None:
        """The worker is gone; what it has not done is the next to be given out."""
        for lease in reversed(self.open.pop(worker, [])):
            self.queue.appendleft(lease)
            self.record("back", worker, lease)

    def withdraw(self, worker: int, leases: Sequence[Lease]) -> None:
        """The worker has never got these, which were granted last."""
        del self.open[worker][-len(leases) :]
        self.queue.extendleft(reversed(leases))

    def _next(self) -> Lease:
        while not self.queue:
            self.queue.extend(self._epoch(self.epoch))
            self.epoch += 1
        return self.queue.popleft()

    def _epoch(self, epoch: int) -> Iterator[Lease]:
        base = 0
        for shard in rng(self.seed, "shards", epoch).permutation(len(self.batches)).tolist():
            size = self.batches[shard]
            step = max(1, -(-size // self.parts))
            for first in range(0, size, step):
                yield Lease(epoch, shard, base, first, min(first + step, size))
            base += size

    def state_dict(self) -> dict:
        return {
            "epoch": self.epoch,
            "queue": [tuple(lease) for lease in self.queue],
            "open": {worker: [tuple(lease) for lease in leases] for worker, leases in self.open.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """The workers of the book's time are gone: their leases are free again."""
        self.epoch, self.queue = state["epoch"], deque(Lease(*lease) for lease in state["queue"])
        self.open = {worker: [Lease(*lease) for lease in leases] for worker, leases in state["open"].items()}
        for worker in sorted(self.open, reverse=True):
            self.back(worker)


class LeasedBatches:
    """A worker's batches, from the leases that ``extend`` brings; ``read(lease)`` gives the batches of one.

    So many batches are read ``ahead`` of what is asked for.
    """

    def __init__(self, read: Callable[[Lease], Iterator[Batch]], ahead: int):
        self.read, self.leases, self.granted = read, deque(), 0
        self.source = prefetched(self._all(), ahead)

    def extend(self, leases: Sequence[Lease]) -> None:
        self.granted += len(leases)
        self.leases.extend(leases)

    def _all(self) -> Iterator[Batch | int]:
        """Batches; where there is no lease left, how many there have been."""
        read = 0
        while True:
            while not self.leases:
                yield read
            yield from self.read(self.leases.popleft())
            read += 1

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        while isinstance(batch := next(self.source), int):
            if batch == self.granted:
                raise DataError("no usable sample in a whole shard, and the server gives the next one only after one")
        return batch

    def close(self) -> None:
        self.source.close()
