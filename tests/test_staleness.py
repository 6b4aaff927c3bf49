"""Staleness: integer laws that hold whatever the speeds (oracles A1 to A5, A11), on the topologies as shipped."""

from itertools import cycle, islice

import numpy as np
import pytest

from tests.scripted import a_job, with_formula

SIZES = [1, 2, 3, 8]


def descent(rank, round, params):
    return 0.01 * rank * params


def script(topology: str, workers: int, *options: str):
    return with_formula(a_job(f"topology={topology}", f"workers={workers}", *options), descent)


def skewed(workers: int, seed: int):
    """An order of arrival in which some workers are up to 20 times as fast as others."""
    generator = np.random.default_rng(seed)
    speeds = generator.uniform(0.05, 1.0, workers)
    return (int(generator.choice(workers, p=speeds / speeds.sum())) + 1 for _ in iter(int, 1))


def in_flight(run) -> int:
    """The staleness that the models at work have by now."""
    return sum(run.server.version - model.version for model in run.held.values())


def round_robin(workers: int):
    return cycle(range(1, workers + 1))


@pytest.mark.parametrize("topology", ["async", "staleness_aware", "ssp"])
@pytest.mark.parametrize("workers", SIZES)
def test_A1_round_robin_starts_with_0_to_N_minus_1_and_stays_there(topology, workers):
    run = script(topology, workers).arrive(*islice(round_robin(workers), 5 * workers))
    assert run.applied_staleness() == [*range(workers), *[workers - 1] * 4 * workers]


@pytest.mark.parametrize("workers", SIZES)
def test_A2_synchronous_updates_are_never_stale(workers):
    run = script("sync", workers)
    run.arrive_at_random(np.random.default_rng(workers), 10 * workers)
    assert run.applied_staleness() == [0] * 10 * workers
    assert run.server.version == 10 and run.held.keys() == set(range(1, workers + 1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", SIZES)
@pytest.mark.parametrize("topology", ["async", "staleness_aware"])
def test_A3_staleness_is_conserved_whatever_the_speeds(topology, workers, seed):
    run, order = script(topology, workers), skewed(workers, seed)
    for updates in range(1, 151):
        run.arrive(next(order))
        assert sum(run.applied_staleness()) + in_flight(run) == updates * (workers - 1)


@pytest.mark.parametrize("workers", SIZES)
def test_A3_the_mean_staleness_tends_to_N_minus_1(workers):
    run = script("async", workers).arrive(*islice(skewed(workers, 5), 1500))
    assert np.mean(run.applied_staleness()) == pytest.approx(workers - 1, rel=0.05, abs=1e-12)


@pytest.mark.parametrize(("workers", "splits"), [(8, 1), (8, 2), (8, 3), (8, 8), (5, 1), (1, 1)])
def test_A4_staleness_is_conserved_with_buffers_of_K(workers, splits):
    run, order = script("softsync", workers, f"topology.splits={splits}"), skewed(workers, splits)
    count = workers // splits
    for updates in range(1, 31):
        run.arrive(*islice(order, count))
        assert run.server.version == updates
        assert sum(run.applied_staleness()) + in_flight(run) == updates * (workers - 1)


@pytest.mark.parametrize(("splits", "mean"), [(15, 29 / 2), (1, 29 / 30)])
def test_A4_and_A5_thirty_softsync_workers_have_the_published_staleness(splits, mean):
    run = script("softsync", 30, f"topology.splits={splits}").arrive(*islice(round_robin(30), 1500))
    settled = run.applied_staleness()[300:]
    assert np.mean(settled) == pytest.approx(mean, abs=0.01) and max(settled) <= 2 * splits


def test_A5_one_softsync_is_at_most_two_updates_behind_when_speeds_are_alike():
    run, generator = script("softsync", 30), np.random.default_rng(3)
    for _ in range(20):
        run.arrive(*(int(worker) for worker in generator.permutation(np.arange(1, 31))))
    assert set(run.applied_staleness()) <= {0, 1, 2}


def cutoff(limit: int) -> tuple[str, str]:
    """Ringmaster's rule with R = limit + 1, as options of the command line."""
    return "topology.weight._target_=asgd.weights.Cutoff", f"+topology.weight.limit={limit}"


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_A11_a_cutoff_bounds_the_staleness_of_what_is_applied(limit):
    run = script("async", 6, *cutoff(limit)).arrive(*islice(skewed(6, limit), 200))
    assert max(run.applied_staleness()) == limit
    for event in run.pushes():
        assert event.applied == (event.staleness <= limit)
    assert run.server.version == len(run.applied_staleness()) == run.server.counts["applied"]


@pytest.mark.parametrize("limit", [3, 1000])
def test_A11_a_cutoff_that_never_binds_is_asynchronous_sgd(limit):
    order = list(islice(round_robin(4), 40))
    run, free = script("async", 4, *cutoff(limit)).arrive(*order), script("async", 4).arrive(*order)
    assert run.events == free.events and run.params.equal(free.params)


@pytest.mark.parametrize("seed", range(3))
def test_A2_backup_workers_apply_only_what_is_fresh(seed):
    run = script("backup", 5, "topology.backups=2")
    run.arrive_at_random(np.random.default_rng(seed), 200)
    assert set(run.applied_staleness()) == {0}
    assert run.server.counts["dropped"] == sum(event.staleness > 0 for event in run.pushes()) > 0
    assert run.server.version == run.server.counts["applied"] // 3
