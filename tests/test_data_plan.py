"""Who reads what: every sample of an epoch once, for any number of workers, loaders and shards."""

from itertools import chain, zip_longest

import pytest

from asgd.data.plan import Part, part_of, resume

COUNTS = [5, 1, 4, 7, 2, 3, 6]


def parts(epoch, shards, workers, loaders, seed=0):
    of_workers = [part_of(seed, epoch, shards, rank, workers) for rank in range(1, workers + 1)]
    return [part.divide(loader, loaders) for part in of_workers for loader in range(loaders)]


def read(part, counts):
    everything = [(shard, place) for shard in part.shards for place in range(counts[shard])]
    return everything[part.first :: part.step]


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 8, 40])
@pytest.mark.parametrize("loaders", [1, 2, 3, 8])
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_every_sample_once(workers, loaders, shards):
    counts = COUNTS[:shards]
    for epoch in range(3):
        all_parts = parts(epoch, shards, workers, loaders)
        seen = list(chain.from_iterable(read(part, counts) for part in all_parts))
        assert sorted(seen) == [(shard, place) for shard in range(shards) for place in range(counts[shard])]
        assert [part.samples(counts) for part in all_parts] == [len(read(part, counts)) for part in all_parts]


def test_enough_shards_are_dealt_whole():
    assert all(part.step == 1 for part in parts(0, shards=7, workers=3, loaders=2))
    assert Part((4, 0, 2)).divide(1, 2) == Part((0,))


def test_order_depends_on_seed_and_epoch_only(monkeypatch):
    first = [part_of(1, epoch, 50, 1, 1).shards for epoch in range(3)]
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [part_of(1, epoch, 50, 1, 1).shards for epoch in range(3)] == first
    assert len({*first, part_of(2, 0, 50, 1, 1).shards}) == 4


@pytest.mark.parametrize("batches", [[3], [3, 3], [1, 4], [4, 0, 2], [0, 2, 5]])
def test_resume_after_any_number_of_turns(batches):
    own = [[(loader, index) for index in range(n)] for loader, n in enumerate(batches)]
    whole = [item for row in zip_longest(*own) for item in row if item is not None]
    for done in range(sum(batches)):
        skips, turn = resume(batches, done)
        left = [items[skip:] for items, skip in zip(own, skips, strict=True)]
        rotated = left[turn:] + left[:turn]
        assert [item for row in zip_longest(*rotated) for item in row if item is not None] == whole[done:]
