"""Shards end to end: which samples come, in which order, and what is checked before a run."""

import hashlib
import os
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from asgd.data.augment import PadCropFlip
from tests.shards import CLASSES, dataset, good, numbers, write, write_set

SIZES = [5, 1, 4, 7, 2]


def reader(data, rank, workers, epochs, start=0):
    """(epoch, index, numbers) of every batch up to the end of an epoch."""
    for batch in data.batches(rank, workers, start):
        if batch.epoch == epochs:
            return
        yield batch.epoch, batch.index, numbers(batch)


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 6, 12])
@pytest.mark.parametrize("shuffle", [0, 3, 1000])
def test_every_sample_once_an_epoch(tmp_path, workers, shuffle):
    data = dataset(write_set(tmp_path, "train", SIZES), shuffle=shuffle)
    seen = {0: [], 1: []}
    for rank in range(1, workers + 1):
        batches = list(reader(data, rank, workers, epochs=2))
        for epoch in seen:
            assert [index for e, index, _ in batches if e == epoch] == list(
                range(sum(e == epoch for e, _, _ in batches))
            )
            seen[epoch] += [number for e, _, some in batches if e == epoch for number in some]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(sum(SIZES)))
    assert data.samples() == sum(SIZES)


def test_labels_belong_to_their_images(tmp_path):
    data = dataset(write_set(tmp_path, "train", SIZES), shuffle=10)
    for batch in islice(data.batches(1, 1), 20):
        assert batch.targets.tolist() == [number % CLASSES for number in numbers(batch)]
        assert batch.inputs.dtype == torch.float32 and batch.targets.dtype == torch.int64


@pytest.mark.parametrize("workers", [1, 6])
def test_order_is_addressed_by_seed_and_epoch(tmp_path, workers):
    paths = write_set(tmp_path, "train", [8] * 5)

    def orders(seed):
        batches = list(reader(dataset(paths, seed=seed, shuffle=5), 1, workers, epochs=2))
        return [tuple(number for e, _, some in batches if e == epoch for number in some) for epoch in (0, 1)]

    assert orders(0) == orders(0)
    assert len({*orders(0), *orders(1)}) == 4


@pytest.mark.parametrize("rank, workers", [(1, 1), (2, 3), (6, 6)])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_start_is_the_tail_of_an_uninterrupted_reader(tmp_path, rank, workers, shuffle):
    data = dataset(write_set(tmp_path, "train", SIZES), shuffle=shuffle)
    whole = list(reader(data, rank, workers, epochs=3))
    for start in range(0, len(whole), 2):
        assert list(reader(data, rank, workers, epochs=3, start=start)) == whole[start:]


def test_leaving_out_batches_decodes_nothing(tmp_path):
    bad = {"png": b"", "cls": b"0"}
    path = write(tmp_path / "a.tar", [("0", bad), ("1", bad), ("2", good(2)), ("3", good(3))])
    assert numbers(next(dataset(path).batches(1, 1, start=1))) == [2, 3]


def test_fewer_shards_than_workers_is_said(tmp_path, caplog):
    data = dataset(write_set(tmp_path, "train", [3, 3]))
    next(data.batches(1, 2))
    assert not caplog.records
    next(data.batches(1, 3))
    assert "2 shards for 3 workers" in caplog.text


def test_more_workers_than_samples_is_an_error(tmp_path):
    data = dataset(write_set(tmp_path, "train", [1, 2]))
    for start in (0, 1):
        with pytest.raises(ValueError, match="worker 4 of 4 gets no usable sample in an epoch of 3"):
            next(data.batches(4, 4, start))


def test_evaluation_is_one_pass_in_file_order(tmp_path):
    train, val = write_set(tmp_path, "train", [2]), write_set(tmp_path, "val", [3, 4])
    for loaders in (0, 3):
        data = dataset(train, val, eval_batch_size=5, loaders=loaders)
        assert [numbers(batch) for batch in data.evaluation()] == [[0, 1, 2, 3, 4], [5, 6]]


def fingerprint(data):
    batches = [batch for rank in (1, 2) for batch in islice(data.batches(rank, 2), 6)]
    return hashlib.sha256(b"".join(batch.inputs.numpy().tobytes() for batch in batches)).hexdigest()


def augmented(paths, batch_size=2):
    return dataset(paths, shuffle=4, augment=PadCropFlip(4, 2), batch_size=batch_size)


def test_the_same_bytes_in_another_process_whatever_its_environment(tmp_path):
    data = augmented(write_set(tmp_path, "train", SIZES))
    expected = fingerprint(pickle.loads(pickle.dumps(data)))
    np.random.seed(1)
    torch.manual_seed(1)
    assert fingerprint(data) == expected
    code = (
        f"import tests.test_data_shards as here; print(here.fingerprint(here.augmented({str(tmp_path / '*.tar')!r})))"
    )
    changes = {"RANK": "3", "WORLD_SIZE": "4", "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | changes, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == expected


def test_augmentation_is_new_in_each_epoch_but_the_same_for_any_division(tmp_path):
    data = augmented(write_set(tmp_path, "train", [1, 1]), batch_size=1)

    def inputs(rank, workers):
        return {batch.inputs.numpy().tobytes() for batch in islice(data.batches(rank, workers), 16 // workers)}

    assert inputs(1, 1) == inputs(1, 2) | inputs(2, 2)
    assert len(inputs(1, 1)) > 4


def test_ways_to_give_shards(tmp_path, monkeypatch):
    paths = write_set(tmp_path, "train", [1] * 4)
    folder = str(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "50% [a]").mkdir()
    odd = write(tmp_path / "50% [a]" / "x.tar", [("0", good(0))])
    for url, expected in {
        f"{folder}/train-{{0000..0003}}.tar": 4,
        f"{folder}/train-000[12].tar": 2,
        f"{folder}/*.tar": 4,
        "train-*.tar": 4,
        f"{folder}/train-{{0000,*2}}.tar": 2,
        f"file:{paths[0]}": 1,
        f"file://{paths[0]}": 1,
        f"file://localhost{folder}/*.tar": 4,
        odd: 1,
        f"file:{folder}/50%25%20[a]/x.tar": 1,
    }.items():
        assert dataset(url).samples() == expected, url
    assert dataset([paths[0], f"{folder}/train-000[23].tar"]).samples() == 3


@pytest.mark.parametrize(
    "url, message",
    [
        ("", "needs shards: give dataset.url=PATH"),
        ([], "needs shards: give dataset.url=PATH"),
        ("none-*.tar", "dataset.url: no such file: none-\\*.tar"),
        ("train-{0000..0001}.tar", "dataset.url: no such file: train-0001.tar"),
        ("pipe:cat train-0000.tar", "cannot read pipe: shards"),
        (["train-0000.tar", "*.tar"], "dataset.url: train-0000.tar is given more than once"),
    ],
)
def test_check_names_what_is_wrong_with_a_url(tmp_path, monkeypatch, url, message):
    write_set(tmp_path, "train", [1])
    monkeypatch.chdir(tmp_path)
    data = dataset(url, val_url="train-0000.tar")
    for attempt in (data.check, data.samples, lambda: next(data.batches(1, 1))):
        with pytest.raises(ValueError, match=message):
            attempt()


def test_check_wants_validation_shards(tmp_path):
    data = dataset(write_set(tmp_path, "train", [1]), val_url="")
    for attempt in (data.check, lambda: next(data.evaluation())):
        with pytest.raises(ValueError, match=r"needs shards: give dataset\.val_url=PATH"):
            attempt()


@pytest.mark.parametrize("which", ["train", "val"])
@pytest.mark.parametrize(
    "files, message",
    [
        ({**good(0), "cls": b"12"}, "sample 7: its label 12 is not in 0..9; does dataset.classes=10 fit?"),
        ({"png": good(0)["png"]}, "sample 7: must have exactly one .cls file"),
    ],
)
def test_check_reads_the_labels_of_the_first_shards(tmp_path, which, files, message):
    paths = {"train": write_set(tmp_path, "train", [3]), "val": write_set(tmp_path, "val", [3])}
    dataset(paths["train"], paths["val"]).check()
    write(Path(paths[which][0]), [("6", good(6)), ("7", files)])
    with pytest.raises(ValueError) as error:
        dataset(paths["train"], paths["val"]).check()
    assert f"{paths[which][0]}: {message}" in str(error.value)
    dataset(paths["train"], paths["val"], on_error="skip").check()


def test_check_decodes_one_image(tmp_path):
    path = write(tmp_path / "a.tar", [("0", {"png": b"", "cls": b"0"})])
    with pytest.raises(ValueError, match="sample 0: its image does not decode"):
        dataset(path).check()
    with pytest.raises(ValueError, match=r"no sample has a label in 0\.\.9 and an image"):
        dataset(path, on_error="skip").check()


def test_check_compares_the_shape_with_what_the_augmentation_gives(tmp_path):
    data = dataset(write_set(tmp_path, "train", [1]), size=8, shape=[3, 8, 8])
    with pytest.raises(ValueError, match=r"gives inputs of shape \(3, 4, 4\): dataset.shape says \(3, 8, 8\)"):
        data.check()


def test_samples_may_be_given(tmp_path):
    assert dataset("not-there.tar", samples=1_281_167).samples() == 1_281_167


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "dataset.batch_size=0: must be an integer of at least 1"),
        ({"loaders": -1}, "dataset.loaders=-1: must be an integer of at least 0"),
        ({"shuffle": -1}, "dataset.shuffle=-1"),
        ({"samples": 0}, "dataset.samples=0"),
        ({"on_error": "ignore"}, "dataset.on_error='ignore': must be one of stop, skip"),
        ({"shape": [3, 5, 5]}, r"dataset.shape=\[3, 5, 5\]: must be \[3, 4, 4\], give dataset.size"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset("a.tar", **changes)
