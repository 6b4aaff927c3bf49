"""Runs whose workers keep samples of their own."""

import pytest
from hydra.errors import InstantiationException

from asgd import results
from tests.runs import pushes, replayed, run
from tests.scripted import a_job

DIGITS = ("dataset=digits", "model=linear", "workers=4", "engine=virtual", "dataset.batch_size=32")


@pytest.mark.parametrize(
    "partition",
    [
        ("dataset.partition=dirichlet", "dataset.alpha=0.1"),
        ("dataset.partition=shards_per_worker", "dataset.shards_per_worker=2"),
    ],
    ids=["dirichlet", "shards_per_worker"],
)
def test_epochs_count_samples_and_a_replay_agrees(tmp_path, partition):
    source = run(tmp_path / "source", *DIGITS, *partition, "budget.epochs=3", problem=())
    summary = results.summary(source)
    assert 0 <= summary["samples"] - 3 * 1438 < 32 and summary["ended"] == "budget"
    assert set(pushes(source).worker) == {1, 2, 3, 4}
    assert replayed(source, tmp_path / "again")["equal"]


def test_workers_with_classes_of_their_own_forget_the_others(tmp_path):
    """After steps on one class or two, a model is worse than after as many steps on all: the mix does arrive."""

    def accuracy(name, *words):
        words = (*words, "budget.updates=8", "evaluate.every=8", "optimizer.lr=0.2", "topology=local_sgd")
        folder = run(tmp_path / name, *DIGITS, *words, "topology.steps=20", "workers=10", problem=())
        return results.summary(folder)["final_accuracy"]

    mixed = accuracy("mixed")
    alone = accuracy("alone", "dataset.partition=shards_per_worker", "dataset.shards_per_worker=1")
    assert mixed > alone + 0.05


@pytest.mark.parametrize("name", ["least_squares", "noise"])
def test_data_without_labels_are_not_shared_out_by_them(name):
    with pytest.raises(InstantiationException, match="partition=dirichlet: this data set has no labels"):
        a_job("dataset.partition=dirichlet", problem=(f"dataset={name}",))
