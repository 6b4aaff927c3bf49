"""The mixture of Gaussians, and thousands of workers who share one permutation of it."""

import pickle
from itertools import islice

import pytest
import torch

from asgd.data import partition
from asgd.data.mixture import Mixture
from asgd.seeds import rng
from tests.scripted import a_job

CROSS_ENTROPY = torch.nn.functional.cross_entropy
DEFAULTS = {"batch_size": 100, "classes": 3, "shape": [50], "loss": CROSS_ENTROPY, "samples": 1000, "held_out": 300}


def mixture(**changes):
    return Mixture(**(DEFAULTS | {"clusters": 2} | changes))


def rows(data):
    """All that is to be trained on, in the order of reading."""
    batches = islice(data.batches(1, 1), 10)
    return map(torch.cat, zip(*((batch.inputs, batch.targets) for batch in batches), strict=True))


def test_it_has_the_stated_sizes_types_and_classes():
    data = mixture()
    inputs, targets = rows(data)
    held_out = next(data.evaluation())
    assert (inputs.shape, inputs.dtype, targets.dtype) == ((1000, 50), torch.float32, torch.int64)
    assert data.samples() == 1000 and held_out.inputs.shape == (300, 50)
    assert held_out.targets.bincount().tolist() == [100] * 3 and sorted(targets.bincount().tolist()) == [333, 333, 334]


def test_each_class_is_its_clusters_around_unit_vectors():
    inputs, targets = rows(mixture(sigma=0.0))
    for label in range(3):
        centers = inputs[targets == label].unique(dim=0)
        assert len(centers) == 2 and torch.allclose(centers.norm(dim=1), torch.ones(2))
    assert len(inputs.unique(dim=0)) == 6


def test_points_lie_around_their_centres_with_sigma():
    (points, _), _ = mixture(samples=6000, sigma=0.5).load()
    (centers, _), _ = mixture(samples=6000, sigma=0.0).load()
    noise = points - centers
    assert abs(noise.mean()) < 5e-3 and abs(noise.std() - 0.5) < 5e-3


def test_the_problem_follows_data_seed_alone():
    first = next(mixture().evaluation()).inputs
    assert torch.equal(first, next(mixture(seed=5).evaluation()).inputs)
    assert not torch.equal(first, next(mixture(data_seed=5).evaluation()).inputs)
    assert not torch.equal(*(next(mixture(seed=seed).batches(1, 1)).inputs for seed in (0, 5)))


def test_the_problem_is_the_same_on_every_machine_and_in_every_release():
    data = mixture(data_seed=7)
    assert data.load()[0][0][0, :3].tolist() == pytest.approx([0.7013996, -0.1119407, -0.2837025], abs=1e-6)


def test_a_copy_in_another_process_gives_the_same_bytes():
    data = mixture()
    copy = pickle.loads(pickle.dumps(data))
    data.check()
    assert torch.equal(next(data.batches(2, 3)).inputs, next(copy.batches(2, 3)).inputs)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"samples": 0}, "dataset.samples=0: must be an integer of at least 1"),
        ({"held_out": 0}, "dataset.held_out=0"),
        ({"classes": 0}, "dataset.classes=0"),
        ({"clusters": 1.5}, "dataset.clusters=1.5"),
        ({"sigma": -1.0}, "dataset.sigma=-1.0: must be a number of at least 0"),
        ({"data_seed": -1}, "dataset.data_seed=-1"),
        ({"shape": [2, 2]}, r"dataset.shape=\[2, 2\]: must be \[dim\]"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        mixture(**changes)


def test_ten_thousand_workers_draw_each_permutation_once():
    data, workers = mixture(samples=20_000, batch_size=2), 10_000
    partition.order.cache_clear()
    readers = [data.batches(rank, workers) for rank in range(1, workers + 1)]
    epochs = [[next(reader) for reader in readers] for _ in range(3)]
    assert partition.order.cache_info().misses == 3
    assert [{batch.epoch for batch in batches} for batches in epochs] == [{0}, {1}, {2}]
    ordered = torch.from_numpy(rng(0, "order", 2).permutation(20_000))[41::workers]
    assert torch.equal(epochs[2][41].inputs, data.load()[0][0][ordered])


def test_workers_who_are_epochs_apart_get_the_same_batches_as_alone():
    readers = [islice(mixture(batch_size=10).batches(rank, 100, start=rank), 20) for rank in range(1, 101)]
    together = list(zip(*readers, strict=True))
    for rank in (1, 50, 100):
        partition.order.cache_clear()
        alone = islice(mixture(batch_size=10).batches(rank, 100, start=rank), 20)
        for batches, expected in zip(together, alone, strict=True):
            assert torch.equal(batches[rank - 1].inputs, expected.inputs)


def test_the_file_names_the_problem_of_the_paper():
    job = a_job("dataset=mixture", "model=linear", problem=())
    data = job.dataset
    job.check()
    assert (data.samples(), data.shape, data.classes, data.clusters, data.sigma) == (128_000, (512,), 4, 8, 0.5)
