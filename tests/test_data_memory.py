"""Data sets in memory: digits, least squares and noise."""

import pickle
from itertools import chain, islice

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from asgd.data.digits import Digits
from asgd.data.memory import InMemory
from asgd.data.partition import Dirichlet
from asgd.data.synthetic import LeastSquares, Noise, mean_output
from asgd.seeds import rng

CROSS_ENTROPY = torch.nn.functional.cross_entropy
MSE = torch.nn.functional.mse_loss


class Counting(InMemory):
    """Inputs 0 .. n-1."""

    def __init__(self, n=23, batch_size=4, seed=0):
        super().__init__(batch_size, 0, (1,), MSE, seed, eval_batch_size=5)
        self.n = n

    def load(self):
        numbers = torch.arange(self.n).float().unsqueeze(1)
        return (numbers, numbers), (numbers[:7], numbers[:7])


class Labelled(InMemory):
    """Inputs 0 .. 59, labels 0 .. 4 in turn."""

    def __init__(self, batch_size=4, seed=0, classes=5, **partition):
        super().__init__(batch_size, classes, (1,), CROSS_ENTROPY, seed, 5, **partition)

    def load(self):
        numbers = torch.arange(60)
        return (numbers.float().unsqueeze(1), numbers % 5), (numbers[:5].float().unsqueeze(1), numbers[:5])


DIRICHLET = {"partition": "dirichlet", "alpha": 0.2}
TWO_SHARDS = {"partition": "shards_per_worker", "shards_per_worker": 2}


def digits(**changes):
    return Digits(**({"batch_size": 32, "classes": 10, "shape": [1, 8, 8], "loss": CROSS_ENTROPY} | changes))


def least_squares(**changes):
    options = {"batch_size": 10, "classes": 0, "shape": [5], "loss": MSE, "samples": 40, "held_out": 7}
    return LeastSquares(**(options | changes))


def noise(**changes):
    return Noise(**({"batch_size": 4, "classes": 0, "shape": [3], "samples": 24} | changes))


def same(one, other):
    return (one.epoch, one.index) == (other.epoch, other.index) and torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("workers", [1, 2, 3, 23])
def test_every_sample_once_an_epoch(workers):
    for epoch in range(2):
        seen = []
        for rank in range(1, workers + 1):
            reader = Counting().batches(rank, workers)
            mine = [batch for batch in islice(reader, 14) if batch.epoch == epoch]
            assert [batch.index for batch in mine] == list(range(len(mine)))
            seen += [int(value) for batch in mine for value in batch.inputs]
        assert sorted(seen) == list(range(23))


def test_order_is_addressed_by_seed_and_epoch():
    def epochs(seed):
        batches = islice(Counting(seed=seed, batch_size=23).batches(1, 1), 2)
        return [tuple(batch.inputs.flatten().tolist()) for batch in batches]

    assert epochs(0) == epochs(0)
    assert len({*epochs(0), *epochs(1)}) == 4


@pytest.mark.parametrize("data", [Counting(), noise(), Labelled(**DIRICHLET), Labelled(**TWO_SHARDS)])
@pytest.mark.parametrize("start", [0, 1, 5, 6, 17])
def test_start_is_the_tail_of_an_uninterrupted_reader(data, start):
    whole = list(islice(data.batches(2, 2), start + 8))[start:]
    resumed = list(islice(data.batches(2, 2, start), 8))
    assert all(same(one, other) for one, other in zip(whole, resumed, strict=True))


def test_batches_are_the_cards_of_the_epoch_in_turn():
    reader = Counting(seed=7).batches(2, 3)
    for epoch in range(3):
        cards = rng(7, "order", epoch).permutation(23)[1::3]
        batches = list(islice(reader, 2))
        assert [batch.inputs.flatten().tolist() for batch in batches] == [cards[:4].tolist(), cards[4:].tolist()]
        assert [(batch.epoch, batch.index) for batch in batches] == [(epoch, 0), (epoch, 1)]


def epochs_of(data, rank, workers, count):
    """The samples that a worker reads in each of its first epochs, in order."""
    read = [[] for _ in range(count + 1)]
    for batch in data.batches(rank, workers):
        read[batch.epoch] += batch.inputs.flatten().int().tolist()
        assert torch.equal(batch.targets, batch.inputs.flatten().long() % 5)
        if batch.epoch == count:
            return read[:count]


@pytest.mark.parametrize("kind", [DIRICHLET, TWO_SHARDS])
@pytest.mark.parametrize("workers", [1, 4, 7])
def test_each_worker_keeps_its_own_samples_and_shuffles_them(kind, workers):
    own = [epochs_of(Labelled(**kind), rank, workers, 3) for rank in range(1, workers + 1)]
    assert sorted(chain.from_iterable(first for first, *_ in own)) == list(range(60))
    for epochs in own:
        assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
        assert epochs[0] != epochs[1] != epochs[2]


def test_the_shares_are_those_of_the_partition():
    shares = Dirichlet(0.2)(np.arange(60) % 5, 3, 11)
    read = [epochs_of(Labelled(seed=11, **DIRICHLET), rank, 3, 1)[0] for rank in (1, 2, 3)]
    assert [sorted(samples) for samples in read] == [share.tolist() for share in shares]


def test_the_epochs_of_a_share_are_its_own():
    data = Labelled(batch_size=6, **TWO_SHARDS)
    assert data.samples() == 60
    places = [(batch.epoch, batch.index) for batch in islice(data.batches(2, 5), 6)]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]  # 12 samples each


def test_more_workers_than_samples_is_an_error():
    assert len(next(Counting(n=3).batches(3, 4)).inputs) == 1
    with pytest.raises(ValueError, match="worker 4 of 4 gets no usable sample in an epoch of 3"):
        next(Counting(n=3).batches(4, 4))


def test_digits_are_those_of_scikit_learn_split_by_class():
    data, original = digits(), load_digits()
    batches = [batch for batch in islice(data.batches(1, 1), 50) if batch.epoch == 0]
    train, test = torch.cat([batch.inputs for batch in batches]), next(data.evaluation())
    together = torch.cat([train, test.inputs]).flatten(1)
    assert (data.samples(), len(train), len(test.inputs)) == (1438, 1438, 359)
    assert sorted(map(tuple, (together * 16).tolist())) == sorted(map(tuple, original.data.tolist()))
    assert test.inputs.dtype == torch.float32
    assert test.targets.dtype == torch.int64
    assert set(torch.bincount(test.targets).tolist()) <= {35, 36, 37}


def test_digits_split_follows_split_seed_alone():
    first = next(digits().evaluation())
    assert torch.equal(first.inputs, next(digits(seed=5).evaluation()).inputs)
    assert not torch.equal(first.inputs, next(digits(split_seed=5).evaluation()).inputs)


def test_least_squares_has_the_stated_distribution_and_solution():
    data = least_squares(samples=2000, batch_size=2000, shape=[50], noise=1e-5)
    train, held_out = next(data.batches(1, 1)), next(data.evaluation())
    assert (train.inputs.shape, train.targets.shape, held_out.inputs.shape) == ((2000, 50), (2000, 1), (7, 50))
    assert train.inputs.min() >= 0 and 0.99 < train.inputs.max() * 50**0.5 <= 1
    solution = torch.linalg.lstsq(train.inputs.double(), train.targets.double()).solution
    assert (train.inputs @ solution.float() - train.targets).abs().max() < 1e-4
    assert (held_out.inputs @ solution.float() - held_out.targets).abs().max() < 1e-4


def test_least_squares_problem_follows_data_seed_alone():
    first = next(least_squares().evaluation())
    assert torch.equal(first.targets, next(least_squares(seed=3).evaluation()).targets)
    assert not torch.equal(first.targets, next(least_squares(data_seed=3).evaluation()).targets)


def test_noise_is_normal_full_and_counted():
    data = noise(batch_size=5000, sigma=2.0, samples=20_000)
    batches = list(islice(data.batches(1, 2), 5))
    assert [(batch.epoch, batch.index) for batch in batches] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert all(batch.inputs.shape == (5000, 3) and not batch.targets.any() for batch in batches)
    assert abs(batches[0].inputs.mean()) < 0.1 and abs(batches[0].inputs.std() - 2) < 0.1
    assert not torch.equal(batches[0].inputs, next(data.batches(2, 2)).inputs)
    assert not next(data.evaluation()).inputs.any()
    assert mean_output(torch.tensor([1.0, 3.0]), torch.zeros(2, 1)) == 2


@pytest.mark.parametrize("data", [digits(), least_squares(), noise()])
def test_a_copy_in_another_process_gives_the_same_bytes(data):
    copy = pickle.loads(pickle.dumps(data))
    data.check()
    assert same(next(data.batches(1, 2)), next(copy.batches(1, 2)))
    assert copy.samples() == data.samples()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: digits(batch_size=0), "dataset.batch_size=0: must be an integer of at least 1"),
        (lambda: digits(batch_size=2.5), "dataset.batch_size=2.5: must be an integer"),
        (lambda: digits(classes=11), "dataset.classes=11, .*digits has 10 and"),
        (lambda: digits(seed=-1), "dataset.seed=-1"),
        (lambda: least_squares(shape=[2, 2]), r"dataset.shape=\[2, 2\]: must be 0 and \[dim\]"),
        (lambda: least_squares(noise=-1.0), "dataset.noise=-1.0: must be a number of at least 0"),
        (lambda: noise(sigma=float("nan")), "dataset.sigma=nan"),
        (lambda: noise(classes=3), "dataset.classes=3"),
        (lambda: Labelled(partition="dirichlet"), "dataset.partition=dirichlet needs dataset.alpha"),
        (lambda: Labelled(classes=0, **DIRICHLET), "dataset.partition=dirichlet: this data set has no labels"),
        (lambda: next(Labelled(**DIRICHLET).batches(1, 61)), "60 samples for 61 workers: at least 61"),
        (lambda: next(digits().batches(0, 2)), "rank=0: must be 1..workers, and workers=2"),
        (lambda: next(noise().batches(3, 2)), "rank=3"),
    ],
)
def test_bad_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
