"""Byzantine-robust rules: their formulas, and workers that may send anything while the mean is led away."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from asgd import results
from asgd.robust import CHUNK, CoordinateMedian, Krum, TrimmedMean
from asgd.rules import MeanOfWorkers
from tests.runs import run
from tests.scripted import a_job, an_update, with_formula, with_tasks

ROBUST = ["coordinate_median", "trimmed_mean", "krum", "multi_krum"]
INFINITE = 3e38  # nearly


def direction(rule, *rows, weights=None, order=None) -> list[float]:
    """Of the rule after worker 1 has sent the first row, worker 2 the second, and so on, in some ``order``."""
    workers = range(1, len(rows) + 1)
    for worker in order or workers:
        payload = torch.tensor(rows[worker - 1], dtype=torch.float64)
        rule.add(an_update(worker, payload=payload), 1.0 if weights is None else weights[worker - 1])
    assert rule.ready({*workers})
    return rule.direction().tolist()


def honest(count: int, size: int, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).normal(1.0, 0.5, (count, size)).tolist()


# Formulas


def test_the_median_of_each_coordinate():
    rows = [1.0, 9.0, 5.0], [2.0, 7.0, 5.0], [8.0, 8.0, -1.0]
    assert direction(CoordinateMedian(None, 3), *rows) == [2.0, 8.0, 5.0]


def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle():
    rows = [1.0, 5.0], [2.0, 5.0], [4.0, 5.0], [100.0, -3.0]
    assert direction(CoordinateMedian(None, 4), *rows) == [3.0, 5.0]


@pytest.mark.parametrize(("trim", "expected"), [(0, 22.0), (1, 3.0), (2, 2.0), (0.2, 3.0), (0.3, 2.0), (0.4, 2.0)])
def test_the_trimmed_mean_leaves_out_the_ends_of_each_coordinate(trim, expected):
    rows = [1.0, -1.0], [2.0, -2.0], [100.0, -100.0], [6.0, -6.0], [1.0, -1.0]  # 1 1 2 6 100
    found = direction(TrimmedMean(None, trim, 5), *rows)
    assert found == pytest.approx([expected, -expected], abs=1e-12)


@pytest.mark.parametrize("count", range(1, 10))
def test_median_and_trimmed_mean_are_those_of_numpy_over_more_than_one_chunk(count):
    rows = torch.randn(count, CHUNK + 5, generator=torch.Generator().manual_seed(count))
    rows[:, :100] = rows[:, :100].round()  # ties

    def of(rule):
        for worker, payload in enumerate(rows, start=1):
            rule.add(an_update(worker, payload=payload), 1.0)
        return rule.direction()

    torch.testing.assert_close(of(CoordinateMedian(None, count)), rows.quantile(0.5, dim=0), rtol=1e-6, atol=1e-6)
    trim = (count - 1) // 3
    kept = rows.sort(dim=0).values[trim : count - trim]
    torch.testing.assert_close(of(TrimmedMean(None, trim, count)), kept.mean(dim=0), rtol=1e-6, atol=1e-6)


def krum(rows, byzantine: int, select: int) -> list[float]:
    """The definition: the sum of squared distances to the K - f - 2 nearest others, of all subsets of that size."""
    rows, scores = np.array(rows), []
    for one in range(len(rows)):
        others = [((rows[one] - rows[other]) ** 2).sum() for other in range(len(rows)) if other != one]
        scores.append(min(map(sum, combinations(others, len(rows) - byzantine - 2))))
    chosen = sorted(range(len(rows)), key=lambda one: (scores[one], one))[:select]
    return rows[sorted(chosen)].mean(axis=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "byzantine", "select"), [(3, 0, 1), (5, 1, 1), (6, 1, 3), (9, 3, 1), (9, 2, 5)])
def test_krum_is_its_definition(count, byzantine, select, seed):
    rows = honest(count, 4, seed)
    found = direction(Krum(None, byzantine, count, select), *rows)
    assert found == pytest.approx(krum(rows, byzantine, select), abs=1e-12)


def test_krum_takes_the_one_among_the_others():
    rows = [0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [5.0, 5.0], [0.05, 0.05]
    assert direction(Krum(None, 1, 5), *rows) == [0.05, 0.05]
    # as many as K allows, f = 1, and m = K - f - 2 = 2: the fifth, and of the first three, which are equal, the first
    assert direction(Krum(None, None, 5, None), *rows) == pytest.approx([0.025, 0.025])


def test_of_equals_krum_takes_the_smaller_worker():
    rows = [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [9.0, 9.0], [9.0, 9.0]
    assert direction(Krum(None, 0, 6, 1), *rows) == rows[0]
    assert direction(Krum(None, 0, 6, 1), *rows[::-1][2:], *rows[:2][::-1]) == [1.0, 0.0]


MAKE = {
    "coordinate_median": lambda count, workers: CoordinateMedian(count, workers),
    "trimmed_mean": lambda count, workers: TrimmedMean(count, 0.2, workers),
    "krum": lambda count, workers: Krum(count, None, workers),
    "multi_krum": lambda count, workers: Krum(count, None, workers, None),
}


@pytest.mark.parametrize("name", ROBUST)
def test_it_does_not_matter_who_came_first(name):
    rows = honest(5, 3)
    found = {tuple(direction(MAKE[name](None, 5), *rows, order=order)) for order in permutations(range(1, 6))}
    assert len(found) == 1


@pytest.mark.parametrize("name", ROBUST)
def test_the_weight_multiplies_each_payload(name):
    rows, weights = honest(5, 3), [1.0, 0.5, 0.25, 1.0, 0.5]
    scaled = [[weight * number for number in row] for row, weight in zip(rows, weights, strict=True)]
    assert direction(MAKE[name](None, 5), *rows, weights=weights) == direction(MAKE[name](None, 5), *scaled)


@pytest.mark.parametrize("name", ROBUST)
def test_a_step_takes_count_different_workers_and_what_they_sent_stays(name):
    rule, payload = MAKE[name](3, 5), torch.ones(3)
    for round in range(4):
        rule.add(an_update(1, round, payload=payload), 1.0)
        assert not rule.ready({1, 2, 3, 4, 5})
    rule.add(an_update(2, payload=payload), 1.0), rule.add(an_update(5, payload=payload), 1.0)
    assert rule.ready({1, 2, 3, 4, 5}) and rule.holds
    torch.testing.assert_close(rule.direction(), torch.ones(3))
    assert not rule.ready({1, 2, 3, 4, 5}) and payload.tolist() == [1.0] * 3


@pytest.mark.parametrize("name", ROBUST)
def test_a_restored_rule_goes_on_where_it_was(name):
    rows, rule, restored = torch.tensor(honest(5, 3)), MAKE[name](None, 5), MAKE[name](None, 5)
    for worker in (4, 1, 3):
        rule.add(an_update(worker, payload=rows[worker - 1]), 1.0)
    restored.load_state_dict(rule.state_dict())
    for each in (rule, restored):
        each.add(an_update(2, payload=rows[1]), 1.0), each.add(an_update(5, payload=rows[4]), 1.0)
    assert restored.ready({1, 2, 3, 4, 5}) and torch.equal(restored.direction(), rule.direction())


# Where workers have left


def test_of_few_that_are_left_the_trimmed_mean_is_the_median():
    rule = TrimmedMean(None, 2, 6)
    assert direction(rule, [1.0], [2.0], [9.0]) == [2.0] and direction(rule, [1.0], [3.0]) == [2.0]
    assert direction(rule, [7.0]) == [7.0]


def test_of_too_few_for_krum_it_is_the_median():
    rule = Krum(None, 1, 5)
    assert direction(rule, [1.0], [2.0], [9.0], [4.0]) == [3.0] and direction(rule, [7.0]) == [7.0]


# Workers that send anything

LIES = {
    "huge": lambda row, liar: [INFINITE] * len(row),
    "hugely negative": lambda row, liar: [-INFINITE] * len(row),
    "either": lambda row, liar: [INFINITE * (-1) ** (liar + at) for at in range(len(row))],
    "all the same": lambda row, liar: [-50.0] * len(row),
    "ten times the opposite": lambda row, liar: [-10 * number for number in row],
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", [*ROBUST, "mean"])
def test_E_liars_lead_the_mean_away_and_no_robust_rule(name, lie):
    """2 of 9, 0.2 of them and fewer than (9 - 3) / 2, in single precision: within what the honest ones sent."""
    rows = torch.tensor(honest(9, 20))
    for liar in (2, 6):
        rows[liar] = torch.tensor(LIES[lie](rows[liar].tolist(), liar))
    truth = torch.stack([row for number, row in enumerate(rows) if number not in (2, 6)])
    rule = MeanOfWorkers() if name == "mean" else MAKE[name](None, 9)
    for worker, payload in enumerate(rows, start=1):
        rule.add(an_update(worker, payload=payload), 1.0)
    found, room = rule.direction(), 1e-6
    inside = (truth.min(dim=0).values - room <= found) & (found <= truth.max(dim=0).values + room)
    assert inside.all() == (name != "mean")


def test_E_more_liars_than_were_reckoned_with_lead_the_trimmed_mean_away():
    rows = [1.0], [1.1], [0.9], [1e9], [1e9]
    assert direction(TrimmedMean(None, 1, 5), *rows)[0] > 1e8 and direction(TrimmedMean(None, 2, 5), *rows) == [1.1]


LONGER = [pytest.param(each, marks=pytest.mark.slow) for each in ("trimmed_mean", "krum")]


@pytest.mark.parametrize("topology", ["coordinate_median", "multi_krum", pytest.param("sync", id="mean"), *LONGER])
def test_E_one_worker_of_five_that_sends_ten_times_the_opposite(tmp_path, topology):
    """It turns the mean of all into a step up the hill; the others learn to read digits as if it were not there."""
    liar = ("topology.worker._target_=tests.broken.SendsTimes", "+topology.worker.liars=[2]")
    options = ("engine=virtual", "workers=5", f"topology={topology}", "budget.updates=200", "evaluate.every=200")
    digits = ("model=linear", "dataset=digits", "dataset.batch_size=32")
    options = (*options, *liar, "+topology.worker.factor=-10", "optimizer.lr=0.5")
    summary = results.summary(run(tmp_path / "run", *options, problem=digits))
    assert summary["ended"] == "budget" and summary["updates"] == 200
    assert summary["final_accuracy"] > 0.9 if topology in ROBUST else summary["final_accuracy"] < 0.2


@pytest.mark.parametrize("topology", ["coordinate_median", pytest.param("multi_krum", marks=pytest.mark.slow)])
def test_E_a_fast_liar_counts_once_in_a_step_of_some_of_the_workers(tmp_path, topology):
    """A step takes the first 5 of 8; the liar is always among them, and never twice."""
    liar = ("topology.worker._target_=tests.broken.SendsTimes", "+topology.worker.liars=[1]")
    options = ("engine=virtual", "workers=8", f"topology={topology}", "topology.count=5", "budget.updates=200")
    options = (*options, *liar, "+topology.worker.factor=-10", "evaluate.every=200", "optimizer.lr=0.5")
    options = (*options, "timing=none", "timing.compute=[1e-3,1e-2,1e-2,1e-2,1e-2,2e-2,2e-2,2e-2]")
    digits = ("model=linear", "dataset=digits", "dataset.batch_size=32")
    folder = run(tmp_path / "run", *options, problem=digits)
    assert results.summary(folder)["final_accuracy"] > 0.9
    steps = results.updates(folder).query("event == 'push' and worker == 1")
    assert len(steps) >= 200 and results.summary(folder)["staleness_max"] > 0


# Degenerate cases are equalities


def both(first: tuple, second: tuple, workers: int):
    scripts = [with_tasks(a_job(f"workers={workers}", *options)) for options in (first, second)]
    for script in scripts:
        script.arrive_at_random(np.random.default_rng(workers), 80)
    assert scripts[0].server.version > 5
    return [script.params for script in scripts]


def test_C8_the_coordinate_median_of_two_is_sync_bit_for_bit():
    assert torch.equal(*both(("topology=coordinate_median",), ("topology=sync",), 2))


def test_C8_multi_krum_of_all_with_nobody_to_fear_is_sync_bit_for_bit():
    options = ("topology=multi_krum", "topology.byzantine=0", "topology.select=4")
    assert torch.equal(*both(options, ("topology=sync",), 4))


def test_C8_multi_krum_of_one_is_krum_bit_for_bit():
    assert torch.equal(*both(("topology=multi_krum", "topology.select=1"), ("topology=krum",), 5))


def test_C8_the_trimmed_mean_without_trimming_is_sync_but_for_rounding():
    found = both(("topology=trimmed_mean", "topology.trim=0"), ("topology=sync",), 4)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("workers", "trim"), [(3, 1), (4, 1), (7, 3), (8, 3)])
def test_C8_the_trimmed_mean_of_what_is_in_the_middle_is_the_coordinate_median_bit_for_bit(workers, trim):
    options = ("topology=trimmed_mean", f"topology.trim={trim}")
    assert torch.equal(*both(options, ("topology=coordinate_median",), workers))


@pytest.mark.parametrize("topology", ROBUST)
def test_C8_equal_gradients_are_sync(topology):
    """Where all send the same, every rule sends that on."""

    def gradient(rank, round, params):
        return 0.1 * params + round

    found = []
    for each in (topology, "sync"):
        found.append(with_formula(a_job(f"topology={each}", "workers=5"), gradient).arrive(*(1, 2, 3, 4, 5) * 6).params)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
