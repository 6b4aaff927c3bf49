"""Shares of the workers: exact partitions of the data, by the stated laws, addressed by the seed alone."""

import pickle

import numpy as np
import pytest
from scipy import stats

from asgd.data.partition import Dirichlet, Iid, ShardsPerWorker, choose, needs_labels
from asgd.seeds import rng

UNEVEN = np.repeat([-3, 0, 7, 8], [1000, 2000, 3000, 4000])  # labels of any range
PARTITIONS = [Iid(), Dirichlet(0.05), Dirichlet(1), Dirichlet(1e9), Dirichlet(1e-300), ShardsPerWorker(2)]


def labels(samples, classes):
    return np.arange(samples) % classes


def mixes(shares, of):
    """Each worker's shares [workers, classes] of the classes."""
    kinds = np.unique(of)
    return np.array([[(of[share] == kind).mean() for kind in kinds] for share in shares])


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 7, 61, 122])
@pytest.mark.parametrize("classes", [1, 3, 244])
def test_every_sample_belongs_to_exactly_one_worker(partition, workers, classes):
    shares = partition(labels(244, classes), workers, 5)
    assert len(shares) == workers and sorted(np.concatenate(shares)) == list(range(244))
    assert all((np.diff(share) > 0).all() for share in shares)
    sizes, spread = [len(share) for share in shares], 2 if isinstance(partition, ShardsPerWorker) else 1
    assert max(sizes) - min(sizes) <= spread and min(sizes) > 0


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
def test_shares_follow_from_the_seed_alone(partition):
    first = partition(UNEVEN, 10, 3)
    np.random.seed(1)
    assert same(first, pickle.loads(pickle.dumps(partition))(UNEVEN.copy(), 10, 3))
    assert not same(first, partition(UNEVEN, 10, 4))


MANY = np.repeat([-3, 0, 7, 8], [2000, 4000, 6000, 8000])
P, SIZE = np.array([0.1, 0.2, 0.3, 0.4]), len(MANY) // 200


def found(alpha, workers=200):
    """The mixes of the workers of ten seeds, each with SIZE samples."""
    return np.concatenate([mixes(Dirichlet(alpha)(MANY, workers, seed), MANY) for seed in range(10)])


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_mixes_have_the_moments_of_the_dirichlet_law(alpha):
    def variance(alpha, size=SIZE):
        return P * (1 - P) / (alpha + 1) * (1 + alpha / size)  # of the mix, and of ``size`` samples drawn from it

    shares = found(alpha)
    np.testing.assert_allclose(shares.mean(0), P)  # exact, because all shares are equally large
    np.testing.assert_allclose(shares.var(0), variance(alpha), rtol=0.2)
    assert (shares.var(0) > 1.25 * variance(4 * alpha)).all()  # Dir(alpha, ..., alpha) is another law


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0, 100.0])
def test_mixes_have_the_marginals_of_the_dirichlet_law(alpha):
    def law(alpha, size=SIZE):
        generator = np.random.default_rng(8)
        return generator.multinomial(size, generator.dirichlet(alpha * P, 20_000)) / size

    for shares, same_law, other_law in zip(found(alpha).T, law(alpha).T, law(4 * alpha).T, strict=True):
        assert stats.ks_2samp(shares, same_law).statistic < 0.045 < stats.ks_2samp(shares, other_law).statistic


def test_alpha_near_zero_gives_each_worker_one_class():
    of = labels(1000, 10)
    assert [(mix > 0).sum() for mix in mixes(Dirichlet(1e-300)(of, 10, 0), of)] == [1] * 10


def test_no_rank_is_favoured():
    """The last to draw takes what remains; were that always the same rank, its mix would differ in law."""
    of = labels(1000, 10)
    most = np.array([mixes(Dirichlet(0.1)(of, 4, seed), of).max(1) for seed in range(400)])
    assert np.ptp(most.mean(0)) < 6 * (most.var(0).mean() / 400) ** 0.5


def test_shards_per_worker_is_that_of_the_paper():
    of = labels(60_000, 10)
    shares = ShardsPerWorker(2)(of, 100, 0)
    kinds = [len(np.unique(of[share])) for share in shares]
    assert {len(share) for share in shares} == {600} and set(kinds) == {1, 2} and kinds.count(2) > 80
    assert set(np.concatenate([np.bincount(of[share], minlength=10) for share in shares])) <= {0, 300, 600}


def test_one_shard_and_as_many_workers_as_classes_is_a_class_each():
    of = labels(120, 6)
    owned = [set(of[share]) for share in ShardsPerWorker(1)(of, 6, 2)]
    assert sorted(owned, key=min) == [{kind} for kind in range(6)] != owned


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_shard_has_few_classes_also_where_it_does_not_divide(shards):
    of = labels(997, 10)
    assert all(len(np.unique(of[share])) <= 2 * shards for share in ShardsPerWorker(shards)(of, 13, 0))


def test_iid_is_dealt_like_cards_anew_in_each_epoch():
    deal = Iid().deal(labels(23, 3), 4, 9)
    for epoch in range(3):
        cards = rng(9, "order", epoch).permutation(23)
        assert [deal.order(epoch, rank).tolist() for rank in (1, 2, 3, 4)] == [cards[k::4].tolist() for k in range(4)]
    assert [deal.size(rank) for rank in (1, 2, 3, 4)] == [6, 6, 6, 5]


@pytest.mark.parametrize("partition", [Dirichlet(0.5), ShardsPerWorker(3)], ids=str)
def test_workers_keep_their_shares_and_permute_them(partition):
    shares, deal = partition(UNEVEN, 5, 1), partition.deal(UNEVEN, 5, 1)
    for rank, share in enumerate(shares, 1):
        orders = [deal.order(epoch, rank) for epoch in (0, 1, 1000)]
        assert all(np.array_equal(np.sort(order), share) for order in orders) and deal.size(rank) == len(share)
        assert len({tuple(order) for order in orders}) == 3
        assert np.array_equal(partition.deal(UNEVEN, 5, 1).order(1000, rank), orders[2])


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: choose("dirichlt"), "dataset.partition='dirichlt': must be one of iid, dirichlet, shards_per_worker"),
        (lambda: choose("dirichlet", alpha=None), "dirichlet needs dataset.alpha, for example dataset.alpha=1"),
        (lambda: choose("shards_per_worker"), "needs dataset.shards_per_worker"),
        (lambda: choose("iid", alpha=0.1), "dataset.alpha=0.1 has no meaning .*set dataset.partition=dirichlet"),
        (lambda: choose("dirichlet", alpha=1, shards_per_worker=2), "shards_per_worker=2 has no meaning"),
        (lambda: choose("iid", beta=1), "dataset.beta=1 has no meaning .*there is no such option"),
        (lambda: choose("dirichlet", alpha=0), "dataset.alpha=0: must be a number above 0"),
        (lambda: choose("dirichlet", alpha=float("nan")), "dataset.alpha=nan"),
        (lambda: choose("dirichlet", alpha=float("inf")), "dataset.alpha=inf"),
        (lambda: choose("dirichlet", alpha="1"), "dataset.alpha='1'"),
        (lambda: choose("shards_per_worker", shards_per_worker=1.5), "dataset.shards_per_worker=1.5"),
        (lambda: choose("shards_per_worker", shards_per_worker=0), "dataset.shards_per_worker=0"),
        (lambda: needs_labels("dirichlet", 0), "dataset.partition=dirichlet: this data set has no labels"),
        (lambda: Dirichlet(1)(labels(9, 3), 10, 0), "9 samples for 10 workers: at least 10 .*use fewer workers"),
        (lambda: Iid()(labels(9, 3), 10, 0), "9 samples for 10 workers"),
        (lambda: ShardsPerWorker(2)(labels(9, 3), 5, 0), "9 samples for 5 workers: at least 10 .*fewer shards"),
        (lambda: Dirichlet(1)(np.zeros((9, 1)), 2, 0), r"targets of shape \[9, 1\] and type float64 are not labels"),
    ],
)
def test_bad_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_options_of_the_configuration_make_the_partition():
    nothing = {"alpha": None, "shards_per_worker": None}
    assert choose("iid", **nothing) == Iid()
    assert choose("dirichlet", **nothing | {"alpha": 0.1}) == Dirichlet(0.1)
    assert choose("shards_per_worker", **nothing | {"shards_per_worker": 2}) == ShardsPerWorker(2)
    needs_labels("iid", 0), needs_labels("dirichlet", 10)
