"""Leases: over all workers every batch of an epoch once, whoever comes, goes, dies or resumes."""

import random
from collections import Counter

import pytest

from asgd.data.batch import Batch
from asgd.data.errors import DataError
from asgd.data.leases import Lease, LeasedBatches, Leases


class Workers:
    """Workers that read what they are given; ``seen`` counts what the server has got, as (epoch, number)."""

    def __init__(self, leases):
        self.leases, self.seen, self.mine, self.bytes = leases, Counter(), {}, Counter()

    def join(self, worker):
        self.mine[worker] = []
        self.answer(worker)

    def answer(self, worker):
        for lease in self.leases.grant(worker):
            self.bytes[lease.epoch, lease.shard] += 1
            self.mine[worker] += [(lease.epoch, lease.base + index) for index in range(lease.first, lease.stop)]

    def push(self, worker, batches=1):
        for _ in range(batches):
            address = self.mine[worker].pop(0)
            self.seen[address] += 1
        self.leases.done(worker, *address)
        self.answer(worker)

    def die(self, worker):
        del self.mine[worker]
        self.leases.back(worker)


@pytest.mark.parametrize("sizes", [[3, 1, 4, 1, 5], [7], [0, 2, 0, 9]])
@pytest.mark.parametrize("number", [1, 2, 5, 9])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_batch_once_an_epoch_whoever_is_fast(sizes, number, parts):
    draw, workers = random.Random(0), Workers(Leases(lambda: sizes, seed=1, parts=parts))
    for worker in range(number):
        workers.join(worker)
    while min(workers.leases.epoch, min(e for mine in workers.mine.values() for e, _ in mine)) < 3:
        workers.push(draw.choice([0, *range(number)]))  # worker 0 is twice as fast
    for epoch in range(3):
        assert {n: workers.seen[epoch, n] for n in range(sum(sizes))} == dict.fromkeys(range(sum(sizes)), 1)
    assert not any(number >= sum(sizes) for _, number in workers.seen)


def test_deaths_joins_and_resumes_lose_and_double_nothing():
    draw, sizes = random.Random(3), [6, 2, 9, 4, 4]
    workers = Workers(Leases(lambda: sizes, seed=0))
    for worker in range(3):
        workers.join(worker)
    deaths = 0
    while min(e for mine in workers.mine.values() for e, _ in mine) < 4:
        act, worker = draw.random(), draw.choice(sorted(workers.mine))
        if act < 0.05:
            workers.die(worker)
            workers.join(draw.randrange(10, 10_000))
            deaths += 1
        elif act < 0.08:  # the server is resumed from a checkpoint: all join anew
            state, ranks = workers.leases.state_dict(), list(workers.mine)
            workers.leases = Leases(lambda: sizes, seed=0)
            workers.leases.load_state_dict(state)
            for rank in ranks:
                workers.join(rank)
        else:
            workers.push(worker, draw.randint(1, min(2, len(workers.mine[worker]))))
    assert deaths > 3
    for epoch in range(4):
        assert [workers.seen[epoch, n] for n in range(sum(sizes))] == [1] * sum(sizes)


def test_the_rest_of_a_lease_is_the_next_to_be_given_out():
    leases, told = Leases(lambda: [4, 4, 4], seed=0), []
    leases.record = lambda event, worker, lease: told.append((event, worker, lease))
    first, second = leases.grant(1)
    leases.done(1, 0, first.base + 1)
    leases.back(1)
    assert leases.grant(2) == (first._replace(first=2), second)
    assert told == [
        ("lease", 1, first), ("lease", 1, second), ("back", 1, second), ("back", 1, first._replace(first=2)),
        ("lease", 2, first._replace(first=2)), ("lease", 2, second),
    ]  # fmt: skip


def test_a_worker_is_given_what_a_round_may_take():
    leases = Leases(lambda: [2, 1, 3, 1], seed=0, least=9)
    assert sum(lease.stop - lease.first for lease in leases.grant(1)) >= 9
    first = leases.open[1][0]
    leases.done(1, first.epoch, first.base)
    leases.grant(1)
    assert sum(lease.stop - lease.first for lease in leases.open[1]) >= 9


def test_orders_are_addressed_by_seed_and_epoch():
    def order(seed):
        leases = Leases(lambda: [1] * 8, seed)
        return [lease.shard for lease in (leases._next() for _ in range(16))]

    assert order(0) == order(0)
    assert sorted(order(0)[:8]) == sorted(order(0)[8:]) == list(range(8))
    assert len({tuple(order(0)[:8]), tuple(order(0)[8:]), tuple(order(1)[:8])}) == 3


def test_shards_without_samples_are_an_error():
    with pytest.raises(ValueError, match="no samples"):
        Leases(lambda: [0, 0], seed=0).grant(1)


def test_only_what_was_given_and_is_not_done_can_be_reported():
    leases = Leases(lambda: [4, 4, 4], seed=0)
    first, second = leases.grant(1)
    assert leases.gave(1, 0, first.base) and leases.gave(1, 0, second.base + 3)
    assert not leases.gave(1, 3, 0) and not leases.gave(1, 0, 8) and not leases.gave(2, 0, 0)
    leases.done(1, 0, first.base + 1)
    assert not leases.gave(1, 0, first.base + 1) and leases.gave(1, 0, first.base + 2)


def batches(lease):
    for number in range(lease.first, lease.stop):
        yield Batch(None, None, lease.epoch, lease.base + number)


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_reader_goes_on_as_leases_come(ahead):
    reader = LeasedBatches(batches, ahead)
    try:
        reader.extend([Lease(0, 1, 0, 0, 2), Lease(0, 0, 2, 0, 1)])
        assert [next(reader).index for _ in range(3)] == [0, 1, 2]
        reader.extend([Lease(1, 0, 0, 0, 0), Lease(1, 1, 5, 2, 4)])
        assert [(batch.epoch, batch.index) for batch in (next(reader), next(reader))] == [(1, 7), (1, 8)]
        with pytest.raises(DataError, match="no usable sample"):
            next(reader)
    finally:
        reader.close()
