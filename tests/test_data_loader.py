"""Loader processes: the same samples, a certain order, clear errors, and none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import psutil
import pytest

from asgd.data.tar import DataError
from tests.shards import dataset, good, numbers, write, write_set


def seen(batches):
    return [(batch.epoch, batch.index, numbers(batch)) for batch in batches]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


def test_every_sample_once_an_epoch_and_start_is_the_tail(tmp_path):
    data = dataset(write_set(tmp_path, "train", [5, 1, 4, 9, 2]), shuffle=3, loaders=2)
    with closing(data.batches(1, 1)) as batches:
        whole = seen(list(islice(batches, 30)))  # a batch stays as it was when its slot is used again
    assert [epoch for epoch, _, _ in whole] == sorted(epoch for epoch, _, _ in whole)
    for epoch in (0, 1):
        mine = [(index, some) for e, index, some in whole if e == epoch]
        assert [index for index, _ in mine] == list(range(len(mine)))
        assert sorted(number for _, some in mine for number in some) == list(range(21))
    per_epoch = sum(epoch == 0 for epoch, _, _ in whole)
    start = per_epoch + 3
    with closing(data.batches(1, 1, start)) as batches:
        assert seen(islice(batches, 30 - start)) == whole[start:]


def test_one_loader_gives_the_order_of_none(tmp_path):
    paths = write_set(tmp_path, "train", [5, 1, 4])
    with closing(dataset(paths, loaders=1).batches(1, 2)) as batches:
        assert seen(islice(batches, 8)) == seen(islice(dataset(paths).batches(1, 2), 8))


def test_more_loaders_than_shards_share_by_sample(tmp_path):
    data = dataset(write_set(tmp_path, "train", [7]), loaders=2)
    with closing(data.batches(1, 1)) as batches:
        first = seen(islice(batches, 4))
    assert sorted(number for _, _, some in first for number in some) == list(range(7))


def test_a_broken_sample_is_named_without_a_wall_of_traceback(tmp_path):
    path = write(tmp_path / "a.tar", [("0", good(0)), ("bad", {"png": b"", "cls": b"0"})])
    with pytest.raises(DataError) as error:
        next(dataset(path, loaders=1).batches(1, 1))
    assert str(error.value).startswith(f"{path}: sample bad: its image does not decode")
    assert "Traceback" not in str(error.value)


def test_a_skipped_sample_is_counted_and_logged_by_the_parent(tmp_path, caplog):
    path = write(tmp_path / "a.tar", [("0", good(0)), ("bad", {"png": b"", "cls": b"0"})])
    with closing(dataset(path, loaders=1, on_error="skip").batches(1, 1)) as batches:
        batch = next(batches)
    assert (numbers(batch), batch.skipped) == ([0], 1)
    assert f"skipped: {path}: sample bad: " in caplog.text


def broken_augmentation(image, generator):
    return 1 / 0


def test_a_bug_in_an_augmentation_comes_with_its_traceback(tmp_path):
    data = dataset(write_set(tmp_path, "train", [2]), loaders=1, augment=broken_augmentation)
    with pytest.raises(
        RuntimeError, match=r"in a loader process:[\s\S]*in broken_augmentation[\s\S]*ZeroDivisionError"
    ):
        next(data.batches(1, 1))


def test_interrupts_are_the_parents_business_and_a_killed_loader_is_an_error(tmp_path):
    batches = dataset(write_set(tmp_path, "train", [50]), loaders=1).batches(1, 1)
    next(batches)
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGINT)
    assert len(list(islice(batches, 40))) == 40
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"loader 0 \(process {process.pid}\) ended with exit code -9"):
        list(islice(batches, 40))


PARENT = """
import multiprocessing, sys
from tests import shards
if __name__ == "__main__":
    batches = shards.dataset(sys.argv[1], loaders=1).batches(1, 1)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read()
"""


def test_loaders_end_with_a_killed_parent(tmp_path):
    (url,) = write_set(tmp_path, "train", [5])
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen(
        [sys.executable, script, url], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:
        (loader,) = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    _, alive = psutil.wait_procs([loader], timeout=10)
    assert alive == []
