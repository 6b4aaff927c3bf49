"""Whole runs on shards: what is broken is named, or counted where the options say so."""

import pytest

from asgd import results
from tests.shards import good, write, write_set

BROKEN = {"png": b"not an image", "cls": b"3"}


@pytest.fixture
def options(tmp_path):
    """Two shards of 20 samples for two workers, one of them with a broken image in its middle."""
    (train,) = write_set(tmp_path, "train", [20])
    samples = [(f"other{k}", BROKEN if k == 11 else good(k)) for k in range(20)]
    broken = write(tmp_path / "broken.tar", samples)
    (val,) = write_set(tmp_path, "val", [10])
    places = [f"dataset.url=[{train},{broken}]", f"dataset.val_url={val}", "dataset.size=32"]
    return [*places, "dataset=cifar10", "dataset.batch_size=5", "model=mlp", "evaluate.every=10", "budget.updates=60"]


def test_a_broken_sample_ends_its_worker_and_is_named(start, options):
    run = start(*options, "engine=threads", "engine.on_worker_failure=stop")
    output = run.wait()
    assert run.code == 1
    assert "broken.tar" in output and "other11" in output


def test_a_broken_sample_is_left_out_and_counted(start, options):
    run = start(*options, "dataset.on_error=skip", "dataset.loaders=1", "budget.epochs=3")
    output = run.wait()
    assert run.code == 0, output
    summary, rows = results.summary(run.folder), results.metrics(run.folder)
    passes = rows[rows.epoch < rows.groupby("worker").epoch.max().min()].groupby("epoch").samples.sum()
    assert set(passes) == {39}
    assert summary["skipped_samples"] >= 2
    logs = [(run.folder / f"stats/worker{k}/worker.log").read_text() for k in (1, 2)]
    assert sum(log.count("other11") for log in logs) >= summary["skipped_samples"]  # those read ahead are in the logs


def test_a_truncated_shard_is_never_silent(start, options, tmp_path):
    shard = tmp_path / "train-0000.tar"
    shard.write_bytes(shard.read_bytes()[: 512 * 2 * 2 * 12])  # at the end of a sample
    run = start(*options, "engine=threads", "engine.on_worker_failure=stop", "dataset.on_error=skip")
    output = run.wait()
    assert run.code != 0 and "train-0000.tar" in output
