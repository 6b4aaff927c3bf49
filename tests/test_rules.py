"""Rules and weights: what received updates become, by the formulas of their papers."""

from math import inf

import pytest
import torch

from asgd.rules import MeanOfUpdates, MeanOfWorkers, all_but, softsync
from asgd.weights import Constant, Cutoff, Inverse
from tests.scripted import an_update


def payload(seed):
    return torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(rule, *pairs):
    """The rule with one update per (worker, weight); its payload is that of the worker's number."""
    for worker, weight in pairs:
        rule.add(an_update(worker)._replace(payload=payload(worker)), weight)
    return rule


# The mean of any K updates


def test_each_update_is_a_step_of_its_own():
    rule = MeanOfUpdates()
    assert not rule.ready({1, 2})
    assert filled(rule, (1, 1.0)).ready({1, 2})
    assert torch.equal(rule.direction(), payload(1)) and not rule.ready({1, 2})


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_step_takes_count_updates_whoever_they_come_from(count):
    rule = MeanOfUpdates(count)
    for number in range(count):
        assert not rule.ready({1, 2, 3})
        filled(rule, (1 + number % 2, 1.0))
    assert rule.ready({1, 2, 3})
    expected = sum(payload(1 + number % 2) for number in range(count)) / count
    torch.testing.assert_close(rule.direction(), expected, rtol=0, atol=1e-15)


def test_C6_the_weight_multiplies_each_payload_before_the_division():
    weights = [1.0, 0.5, 0.25]
    rule = filled(MeanOfUpdates(3), *zip((1, 2, 3), weights, strict=True))
    expected = sum(weight * payload(worker) for worker, weight in zip((1, 2, 3), weights, strict=True)) / 3
    torch.testing.assert_close(rule.direction(), expected, rtol=0, atol=1e-15)


def test_the_weight_of_a_single_update_scales_it():
    torch.testing.assert_close(filled(MeanOfUpdates(), (1, 0.25)).direction(), payload(1) / 4, rtol=0, atol=0)


def test_a_rule_does_not_write_to_what_it_received():
    rule, update = MeanOfUpdates(2), an_update(1, value=3.0)
    rule.add(update, 0.5), rule.add(an_update(2, value=5.0), 0.5)
    assert rule.direction().tolist() == [2.0] * 3 and update.payload.tolist() == [3.0] * 3


# The mean over workers


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_the_mean_over_workers_is_the_same_whoever_came_first(order):
    expected = filled(MeanOfWorkers(), *((worker, 1.0) for worker in (1, 2, 3))).direction()
    rule = filled(MeanOfWorkers(), *((worker, 1.0) for worker in order))
    assert torch.equal(rule.direction(), expected)
    torch.testing.assert_close(expected, (payload(1) + payload(2) + payload(3)) / 3, rtol=0, atol=1e-15)


def test_all_that_are_there_have_to_contribute():
    rule = filled(MeanOfWorkers(), (1, 1.0), (2, 1.0))
    assert not rule.ready({1, 2, 3}) and rule.ready({1, 2}) and rule.ready({2}) and rule.ready(set())


def test_nothing_is_no_mean():
    assert not MeanOfWorkers().ready(set()) and not MeanOfWorkers(2).ready({1})


def test_backups_are_not_waited_for():
    rule = filled(all_but(1, workers=4), (1, 1.0), (4, 1.0))
    assert not rule.ready({1, 2, 3, 4})
    assert filled(rule, (3, 1.0)).ready({1, 2, 3, 4})
    torch.testing.assert_close(rule.direction(), (payload(1) + payload(3) + payload(4)) / 3, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("workers", "needed"), [(4, 3), (16, 14), (17, 14), (64, 56)])
def test_backups_may_be_a_share_of_the_workers_rounded_up(workers, needed):
    assert all_but(0.125, workers).count == needed


def test_fewer_workers_than_a_step_needs_are_enough_when_the_others_have_left():
    assert filled(all_but(1, workers=4), (1, 1.0)).ready({1})


@pytest.mark.parametrize(("workers", "splits", "count"), [(30, 15, 2), (30, 1, 30), (30, 30, 1), (8, 3, 2), (5, 3, 1)])
def test_softsync_takes_the_floor_of_workers_by_splits(workers, splits, count):
    assert softsync(splits, workers).count == count


@pytest.mark.parametrize("rule", [MeanOfUpdates(3), MeanOfWorkers()], ids=["updates", "workers"])
def test_a_restored_rule_goes_on_where_it_was(rule):
    filled(rule, (2, 0.5), (1, 1.0))
    restored = type(rule)(3)
    restored.load_state_dict(rule.state_dict())
    assert torch.equal(filled(restored, (3, 1.0)).direction(), filled(rule, (3, 1.0)).direction())


WRONG = [
    (lambda: MeanOfUpdates(0), "count=0"),
    (lambda: MeanOfWorkers(-1), "count=-1"),
    (lambda: all_but(3, workers=3), "backups=3: 0 to workers - 1 = 2"),
    (lambda: all_but(-1, workers=3), "backups=-1"),
    (lambda: all_but(1.5, workers=3), "backups=1.5"),
    (lambda: all_but(0.9, workers=3), "backups=0.9"),
    (lambda: softsync(0, workers=3), "splits=0: 1 to workers = 3"),
    (lambda: softsync(4, workers=3), "splits=4"),
    (lambda: Cutoff(-1), "limit=-1"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_values_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Weights


def test_constant_counts_everything_fully():
    assert {Constant()(staleness) for staleness in (0, 1, 10, 10**6)} == {1.0}


def test_C6_a_fresh_update_keeps_its_rate_whatever_the_weight():
    assert Constant()(0) == Inverse()(0) == Inverse()(1) == Cutoff(0)(0) == 1.0


def test_inverse_divides_by_the_staleness():
    assert [Inverse()(staleness) for staleness in range(1, 40)] == [1 / staleness for staleness in range(1, 40)]


@pytest.mark.parametrize("limit", [0, 1, 5, inf])
def test_A11_cutoff_keeps_what_is_at_most_as_stale_as_its_limit(limit):
    assert [Cutoff(limit)(staleness) for staleness in range(9)] == [float(s <= limit) for s in range(9)]
