"""Who reads what: shards leased by a server, workers with their own mix of classes, folders of images."""

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from asgd.data import index, partition
from asgd.data.augment import CentreCrop, Normalise
from asgd.data.errors import DataError
from asgd.data.leases import Lease
from asgd.data.shards import Folder
from asgd.data.storage import Storage
from tests.shards import CLASSES, SIZE, dataset, encode, good, numbers, write, write_set

SIZES = [5, 1, 4, 7, 2]
AHEADS = [0, 2]


class Readers:
    """Workers that read what a server's book of leases gives them; ``seen`` are the samples in accepted updates."""

    def __init__(self, data, number, ahead):
        self.data, self.ahead, self.leases, self.readers, self.seen = data, ahead, data.leases(number, 1), {}, Counter()
        for worker in range(number):
            self.join(worker)

    def join(self, worker):
        self.readers[worker] = self.data.leased(self.ahead)
        self.readers[worker].extend(self.leases.grant(worker))

    def push(self, worker):
        batch = next(self.readers[worker])
        self.seen.update((batch.epoch, number) for number in numbers(batch))
        assert batch.targets.tolist() == [number % CLASSES for number in numbers(batch)]
        self.leases.done(worker, batch.epoch, batch.index)
        self.readers[worker].extend(self.leases.grant(worker))

    def die(self, worker):
        next(self.readers[worker])  # a batch that the server never gets
        self.readers.pop(worker).close()
        self.leases.back(worker)

    def until(self, epoch):
        """Whether some batch of an earlier epoch is still to be read."""
        waiting = [lease.epoch for open in self.leases.open.values() for lease in open]
        return min([self.leases.epoch, *waiting, *(lease.epoch for lease in self.leases.queue)]) < epoch

    def close(self):
        for reader in self.readers.values():
            reader.close()


@pytest.mark.parametrize("ahead", AHEADS)
@pytest.mark.parametrize("number, sizes", [(1, SIZES), (3, SIZES), (8, SIZES), (3, [9])])
@pytest.mark.parametrize("changes", [{}, {"shuffle": 3}, {"loaders": 2}], ids=str)
def test_leased_every_sample_once_an_epoch(tmp_path, ahead, number, sizes, changes):
    data = dataset(write_set(tmp_path, "train", sizes), assignment="leased", **changes)
    readers, draw = Readers(data, number, ahead), random.Random(1)
    while readers.until(epoch=2):
        readers.push(draw.choice([0, *range(number)]))
    readers.close()
    for epoch in (0, 1):
        assert {n: readers.seen[epoch, n] for n in range(sum(sizes))} == dict.fromkeys(range(sum(sizes)), 1)


@pytest.mark.parametrize("ahead", AHEADS)
def test_leased_shards_of_the_dead_go_on_where_they_were(tmp_path, ahead):
    data = dataset(write_set(tmp_path, "train", SIZES), assignment="leased", shuffle=4)
    readers, draw = Readers(data, 3, ahead), random.Random(2)
    for step in range(1000):
        if not readers.until(epoch=2):
            break
        worker = draw.choice(list(readers.readers))
        if step % 5 == 4:
            readers.die(worker)
            readers.join(step)
        else:
            readers.push(worker)
    readers.close()
    for epoch in (0, 1):
        assert [readers.seen[epoch, n] for n in range(sum(SIZES))] == [1] * sum(SIZES)


def test_a_batch_is_the_same_whoever_reads_it(tmp_path):
    paths = write_set(tmp_path, "train", [6, 6, 6, 6])

    def batches(number):
        data = dataset(paths, assignment="leased", shuffle=4)
        readers, found = Readers(data, number, AHEADS[0]), {}
        while readers.until(epoch=1):
            for worker in range(number):
                batch = next(readers.readers[worker])
                found[batch.epoch, batch.index] = numbers(batch)
                readers.leases.done(worker, batch.epoch, batch.index)
                readers.readers[worker].extend(readers.leases.grant(worker))
        return {key: found[key] for key in found if key[0] == 0}

    assert batches(1) == batches(3)
    assert len(batches(1)) == 12


def test_skipped_samples_of_leased_shards_are_counted(tmp_path):
    bad = {"png": b"", "cls": b"0"}
    path = write(tmp_path / "a.tar", [("0", bad), ("1", good(1)), ("2", bad), ("3", bad), ("4", good(4))])
    data = dataset(path, assignment="leased", on_error="skip")
    readers = Readers(data, 1, AHEADS[0])
    batches = [next(readers.readers[0]), next(readers.readers[0])]
    assert [(numbers(batch), batch.index, batch.skipped) for batch in batches] == [([1], 0, 1), ([4], 2, 2)]


def test_leased_is_refused_with_a_partition():
    with pytest.raises(ValueError, match=r"dataset\.assignment=leased gives any shard to any worker"):
        dataset("a.tar", assignment="leased", partition="dirichlet", alpha=1)


# Each worker its own mix of classes


@pytest.mark.parametrize("loaders", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_partitioned_workers_keep_their_own_samples(tmp_path, loaders):
    data = dataset(
        write_set(tmp_path, "train", [20, 30]), partition="shards_per_worker", shards_per_worker=1, loaders=loaders
    )
    labels = np.arange(50) % CLASSES
    shares = partition.ShardsPerWorker(1)(labels, workers=5, seed=0)
    for rank in range(1, 6):
        whole = [(batch.epoch, numbers(batch)) for batch in islice(data.batches(rank, 5), 12)]
        for epoch in (0, 1):
            read = [number for e, some in whole if e == epoch for number in some]
            assert sorted(read) == shares[rank - 1].tolist() and read != sorted(read)
        least, most = sorted({number % CLASSES for number in shares[rank - 1].tolist()})
        assert least % 2 == 0 and most == least + 1
        assert [(batch.epoch, numbers(batch)) for batch in islice(data.batches(rank, 5, start=3), 9)] == whole[3:]


def test_a_data_set_that_does_not_fit_into_memory_is_not_partitioned(tmp_path, monkeypatch):
    monkeypatch.setattr("asgd.data.reading.HELD", 1e-12)
    data = dataset(write_set(tmp_path, "train", [20]), partition="dirichlet", alpha=1)
    with pytest.raises(ValueError, match=r"dataset\.partition.*Use dataset\.partition=iid"):
        next(data.batches(1, 2))


# Folders


def folder(root, counts):
    for label, (name, count) in enumerate(counts.items()):
        (root / name / "images").mkdir(parents=True)
        (root / name / "notes.txt").write_text("not an image")
        for number in range(count):
            (root / name / "images" / f"{number}.PNG").write_bytes(encode(256 * label + number))
    return str(root)


def from_folder(path, val_path, **changes):
    parts = {"augment": CentreCrop(SIZE), "transform": CentreCrop(SIZE), "normalise": Normalise([0] * 3, [1 / 255] * 3)}
    options = {"batch_size": 3, "classes": 3, "size": SIZE, "shape": [3, SIZE, SIZE], "loss": None, "shuffle": 0}
    return Folder(path, val_path, **parts | options | changes)


def test_a_folder_of_class_folders_is_read(tmp_path):
    counts = {"cat": 4, "ant": 3, "bee": 5}
    path = folder(tmp_path / "train", counts)
    data = from_folder(path, folder(tmp_path / "val", {"ant": 1, "bee": 1, "cat": 1}))
    data.check()
    assert data.samples() == 12
    seen = []
    for rank in (1, 2):
        for batch in data.batches(rank, 2):
            if batch.epoch == 1:
                break
            names = ["cat", "ant", "bee"]  # the order in which the pixels number them
            assert [sorted(counts)[label] for label in batch.targets] == [names[n // 256] for n in numbers(batch)]
            seen += numbers(batch)
    assert sorted(seen) == [256 * label + n for label, count in enumerate(counts.values()) for n in range(count)]


@pytest.mark.parametrize(
    "counts, val_counts, message",
    [
        ({}, {"a": 1}, "val_path=.*: a is no class of"),
        ({"a": 1, "b": 0}, {"a": 1, "b": 1}, r"dataset\.path=.*: b holds no images \(jpg, jpeg, png\)"),
        ({"a": 1, "b": 1}, {"a": 1}, "val_path=.* has no subfolder b"),
        ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}, "c is no class of"),
        ({}, {}, "its subfolders holds no images"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path, counts, val_counts, message):
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "val").mkdir(exist_ok=True)
    data = from_folder(folder(tmp_path / "train", counts), folder(tmp_path / "val", val_counts))
    with pytest.raises(ValueError, match=message):
        data.check()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.path=None: must be a folder"):
        from_folder(None, None).check()


# An index that is not true


def indexed(path, **changes):
    """An index without checksums, as others make it, beside the shards of ``path``."""
    made = index.build(Storage(), path)
    for shard in made["shardlist"]:
        del shard["sha256"]
        shard |= changes
    Path(index.place(path[0])).write_bytes(index.dumps(made))


@pytest.mark.parametrize("assignment", ["static", "leased"])
@pytest.mark.parametrize("told", [4, 8])
def test_an_index_with_a_wrong_number_of_samples_loses_none(tmp_path, assignment, told):
    path = write_set(tmp_path, "train", [6])
    indexed(path, nsamples=told)
    data = dataset(path, assignment=assignment)
    reader = data.leased() if assignment == "leased" else data.batches(1, 1)
    if assignment == "leased":
        reader.extend(data.leases(1, 1).grant(1))
    with pytest.raises(DataError, match=f"samples, but {told} by .*train-index.json; make it anew"):
        list(reader)


def test_an_index_with_another_size_is_told_before_training(tmp_path):
    path = write_set(tmp_path, "train", [6])
    indexed(path)
    dataset(path).check()
    indexed(path, filesize=77)
    with pytest.raises(ValueError, match=r"dataset\.url: .*train-0000.tar has [\d,]+ bytes, but 77 by its index"):
        dataset(path).check()


def test_a_shard_that_was_cut_after_its_last_batch_is_not_silent(tmp_path):
    path = write_set(tmp_path, "train", [4])
    whole = Path(path[0]).read_bytes()
    Path(path[0]).write_bytes(whole[: 4 * 4 * 512])  # four samples of two files, and no end
    data = dataset(path, assignment="leased", samples=4)
    reader = data.leased()
    reader.extend([Lease(0, 0, 0, 0, 2)])
    with pytest.raises(DataError, match=r"no end-of-archive marker|truncated"):
        list(reader)
