"""Exact dynamics on quadratics: N workers in turn are gradient descent with delay N - 1 (oracles B1 to B3)."""

from itertools import cycle, islice
from math import pi, sin

import pytest
import torch

from tests.scripted import a_job, with_formula, with_tasks

EIGENVALUES = torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64)
EXACT = ("dataset.sigma=0", "model.b=0.0", "model.start=[1.0,-2.0,0.5]")


def gradient(rank, round, params):
    return EIGENVALUES * params


def job(topology: str, workers: int, lr: float, *options: str):
    return a_job(f"topology={topology}", f"workers={workers}", f"optimizer.lr={lr!r}", *EXACT, *options)


def in_turn(made, steps: int, script=with_formula) -> torch.Tensor:
    """[steps + 1, 3], the parameters from the start on, with the workers in turn."""
    run = script(made, gradient) if script is with_formula else script(made)
    start = run.params
    run.arrive(*islice(cycle(range(1, made.workers + 1)), steps))
    return torch.stack([start, *(model.params for model in run.models)])


def recursion(delay: int, lr: float, steps: int, momentum: float = 0.0) -> torch.Tensor:
    """x_{t+1} = x_t + momentum (x_t - x_{t-1}) - lr lambda x_{t-delay}, with x_t = x_0 before the start."""
    path = [torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)] * (delay + 2)
    for _ in range(steps):
        path.append(path[-1] + momentum * (path[-1] - path[-2]) - lr * EIGENVALUES * path[-1 - delay])
    return torch.stack(path[delay + 1 :])


def limit(delay: int) -> float:
    """The largest stable lr for eigenvalue 1 under a constant delay."""
    return 2 * sin(pi / (2 * (2 * delay + 1)))


def growth(path: torch.Tensor, delay: int) -> float:
    """The largest late value over the largest early one, each in a window longer than an oscillation."""
    window = 4 * (2 * delay + 1)
    return (path[-window:].abs().max() / path[window : 2 * window].abs().max()).item()


def close(path, expected):
    torch.testing.assert_close(path, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_B1_workers_in_turn_are_descent_with_delay_N_minus_1(workers):
    lr = 0.5 * limit(workers - 1)
    close(in_turn(job("async", workers, lr), 200), recursion(workers - 1, lr, 200))


def test_B1_holds_for_the_model_and_the_data_set_as_shipped():
    close(in_turn(job("async", 3, 0.2), 60, with_tasks), recursion(2, 0.2, 60))


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16])
def test_B1_converges_below_the_threshold_and_diverges_above_it(workers):
    delay = workers - 1
    steps = 40 * (2 * delay + 1)
    paths = [in_turn(job("async", workers, factor * limit(delay)), steps) for factor in (0.9, 1.1)]
    assert growth(paths[0], delay) < 0.1 and growth(paths[1], delay) > 10


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_B1_the_threshold_is_sharp_to_one_percent(workers):
    delay = workers - 1
    steps = 400 * (2 * delay + 1)
    paths = [in_turn(job("async", workers, factor * limit(delay)), steps) for factor in (0.99, 1.01)]
    assert growth(paths[0], delay) < 0.1 and growth(paths[1], delay) > 10


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_B2_momentum_on_the_server_is_the_delayed_heavy_ball(workers, momentum):
    path = in_turn(job("async", workers, 0.01, f"optimizer.momentum={momentum}"), 150)
    close(path, recursion(workers - 1, 0.01, 150, momentum))


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_B2_with_two_workers_momentum_leaves_one_minus_momentum_of_the_rate(momentum):
    lrs = [factor * (1 - momentum) for factor in (0.9, 1.1)]
    paths = [in_turn(job("async", 2, lr, f"optimizer.momentum={momentum}"), 1000) for lr in lrs]
    assert growth(paths[0], 1) < 0.1 and growth(paths[1], 1) > 10


@pytest.mark.parametrize("workers", [2, 3, 5, 9])
def test_B3_dividing_by_the_staleness_multiplies_the_threshold_by_it(workers):
    delay = workers - 1
    steps, lr = 40 * (2 * delay + 1), delay * limit(delay)
    paths = [in_turn(job("staleness_aware", workers, factor * lr), steps) for factor in (0.9, 1.1)]
    assert growth(paths[0], delay) < 0.1 and growth(paths[1], delay) > 10
    assert lr < pi / 2


def test_B3_the_same_rate_without_the_division_diverges():
    lr = 0.9 * 8 * limit(8)
    assert growth(in_turn(job("async", 9, lr), 300), 8) > 10


def test_synchronous_descent_has_no_delay_however_many_workers():
    made = job("sync", 5, 0.8)
    close(in_turn(made, 500), recursion(0, 0.8, 100))
