"""Delay models: the seconds that each job of a worker takes."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, cycle, islice, repeat
from math import pi, sqrt

import numpy as np

from asgd.seeds import rng

BLOCK = 32  # numbers drawn at a time
Law = Callable[[np.random.Generator], np.ndarray]


class PerWorker:
    """A number for every worker, or a list with one for each; ``cycle`` starts the list anew where it ends.

    ValueError unless all are 0 or more (``positive``: more), and for a worker that the list does not reach.
    """

    def __init__(self, name: str, value: float | list, cycle: bool = False, positive: bool = False):
        self.name, self.value, self.cycle = name, value, cycle
        self.numbers = value if isinstance(value, list) else [value]
        if not self.numbers or not all(
            is_number(each) and each >= 0 and (each or not positive) for each in self.numbers
        ):
            allowed = "more than 0" if positive else "0 or more"
            raise ValueError(f"{name}={value}: a number, or a list with one for each worker, {allowed}")

    def __getitem__(self, worker: int) -> float:
        if not isinstance(self.value, list):
            return self.value
        if worker > len(self.numbers) and not self.cycle:
            raise ValueError(f"{self.name}={self.value}: one for each worker; there is none for worker {worker}")
        return self.numbers[(worker - 1) % len(self.numbers)]


def limited(numbers: PerWorker, least: float, most: float) -> PerWorker:
    """The ``numbers`` as they are. ValueError unless all are from ``least`` to ``most``."""
    if not all(least <= each <= most for each in numbers.numbers):
        raise ValueError(f"{numbers.name}={numbers.value}: from {least:g} to {most:g}")
    return numbers


def variations(name: str, value: float | list) -> PerWorker:
    """Coefficients of variation V; far beyond these limits the shape 1 / V^2 of the Gamma law is no number."""
    return limited(PerWorker(name, value, positive=True), 1e-9, 1e3)


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Delay:
    """Randomness is addressed: a stream follows from (seed, purpose, worker) alone.

    A subclass has the ``law`` of a worker's seconds, or ``draws`` of its own.
    """

    def mean(self, seed: int, worker: int) -> float:
        """Expected seconds of a job of this worker (1..workers)."""
        raise NotImplementedError

    def law(self, seed: int, worker: int) -> Law:
        """What makes the worker's next ``BLOCK`` seconds of a generator."""
        raise NotImplementedError

    def draws(self, seed: int, purpose: str, worker: int, start: int = 0) -> Iterator[float]:
        """Endless seconds, one per job, from the ``start``-th job on. ``inf``: the worker never comes back."""
        draws = chain.from_iterable(blocks(self.law(seed, worker), seed, purpose, worker))
        return islice(draws, start, None) if start else draws


def blocks(law: Law, seed: int, purpose: str, worker: int) -> Iterator[list[float]]:
    generator = rng(seed, purpose, worker)
    while True:
        yield law(generator).data


def as_delay(name: str, value) -> Delay | None:
    """A delay model as it is; a number or a list as ``Deterministic``; None for None and 0, which take no time."""
    if value is None or hasattr(value, "draws"):
        return value
    numbers, delay = PerWorker(name, value), Deterministic()
    delay.seconds = numbers
    return delay if value else None


class Deterministic(Delay):
    """Always the same ``seconds``: a number, or a list with one for each worker; ``cycle`` starts a list anew."""

    def __init__(self, seconds: float | list = 1.0, cycle: bool = False):
        self.seconds = PerWorker("seconds", seconds, cycle)

    def mean(self, seed: int, worker: int) -> float:
        return self.seconds[worker]

    def draws(self, seed: int, purpose: str, worker: int, start: int = 0) -> Iterator[float]:
        return repeat(float(self.mean(seed, worker)))


class SquareRoot(Deterministic):
    """``base * (1 + sqrt(worker - 1))`` seconds: fixed speeds as in the theory of asynchronous SGD."""

    def __init__(self, base: float = 1.0):
        self.base = PerWorker("base", base)

    def mean(self, seed: int, worker: int) -> float:
        return self.base[worker] * (1 + sqrt(worker - 1))


class Exponential(Delay):
    """Exponential with ``mean`` seconds, a number or a list: without memory, so waiting for all costs much."""

    def __init__(self, mean: float | list = 1.0):
        self.means = PerWorker("mean", mean)

    def mean(self, seed: int, worker: int) -> float:
        return self.means[worker]

    def law(self, seed: int, worker: int) -> Law:
        mean = self.mean(seed, worker)
        return lambda generator: generator.exponential(mean, BLOCK)


class CvbHomogeneous(Delay):
    """Gamma with ``mean`` seconds (a number or a list) and the coefficient of ``variation``: shape 1 / V^2, scale
    mean V^2 (Ali, Siegel, Maheswaran, Hensgen, HCW 2000).
    """

    def __init__(self, mean: float | list = 1.0, variation: float = 0.1):
        self.means, self.variation = PerWorker("mean", mean), variations("variation", variation)

    def mean(self, seed: int, worker: int) -> float:
        return self.means[worker]

    def law(self, seed: int, worker: int) -> Law:
        mean, shape = self.mean(seed, worker), self.variation[worker] ** -2
        return lambda generator: generator.gamma(shape, mean / shape, BLOCK)


class CvbHeterogeneous(CvbHomogeneous):
    """Each worker's machine is drawn once, with a mean that is Gamma itself: ``mean`` and ``machine_variation``; its
    jobs vary around that by ``task_variation`` (Ali, Siegel, Maheswaran, Hensgen, HCW 2000).
    """

    def __init__(self, mean: float | list = 1.0, machine_variation: float = 0.6, task_variation: float = 0.1):
        self.means, self.variation = PerWorker("mean", mean), variations("task_variation", task_variation)
        self.machine_variation = variations("machine_variation", machine_variation)

    def mean(self, seed: int, worker: int) -> float:
        shape = self.machine_variation[worker] ** -2
        return rng(seed, "machine", worker).gamma(shape, self.means[worker] / shape)


class HalfNormal(Delay):
    """``i + |N(0, i)|`` seconds with i = ``scale`` * worker; i is the variance (Ringmaster ASGD, arXiv:2501.16168)."""

    def __init__(self, scale: float = 1.0):
        self.scale = PerWorker("scale", scale)

    def size(self, seed: int, worker: int) -> float:
        """The worker's i [s]."""
        return self.scale[worker] * worker

    def mean(self, seed: int, worker: int) -> float:
        size = self.size(seed, worker)
        return size + sqrt(2 * size / pi)

    def law(self, seed: int, worker: int) -> Law:
        size = self.size(seed, worker)
        return lambda generator: size + np.abs(generator.normal(0.0, sqrt(size), BLOCK))


class HalfNormalPermuted(HalfNormal):
    """The same devices 1..``workers``, dealt to the workers at random (Ringleader ASGD, arXiv:2509.22860)."""

    def __init__(self, workers: int, scale: float = 1.0):
        super().__init__(scale)
        self.workers = workers

    def size(self, seed: int, worker: int) -> float:
        if worker > self.workers:
            raise ValueError(f"workers={self.workers}: devices are dealt to so many; there is none for worker {worker}")
        return self.scale[worker] * permutation(seed, self.workers)[worker - 1]


@cache
def permutation(seed: int, workers: int) -> list[int]:
    """The numbers 1..workers in a random order."""
    return (1 + rng(seed, "permutation").permutation(workers)).tolist()


class LogNormal(Delay):
    """Log-normal with ``mean`` seconds (a number or a list); ``sigma`` is the standard deviation of the logarithm."""

    def __init__(self, mean: float | list = 1.0, sigma: float = 0.5):
        self.means, self.sigma = PerWorker("mean", mean), limited(PerWorker("sigma", sigma), 0.0, 30.0)

    def mean(self, seed: int, worker: int) -> float:
        return self.means[worker]

    def law(self, seed: int, worker: int) -> Law:
        mean, sigma = self.mean(seed, worker), self.sigma[worker]
        return lambda generator: mean * generator.lognormal(-(sigma**2) / 2, sigma, BLOCK)


class Straggler(Delay):
    """Any other model (``delay``: also a number or a list), in which some ``workers`` take ``factor`` times as long."""

    def __init__(self, delay, workers: int | list[int] = 1, factor: float = 100.0):
        self.delay, self.workers = as_delay("delay", delay), workers if isinstance(workers, list) else [workers]
        self.factor = PerWorker("factor", factor)
        if self.delay is None:
            raise ValueError(f"delay={delay}: the delay model of the others")
        if not all(isinstance(worker, int) and worker >= 1 for worker in self.workers):
            raise ValueError(f"workers={workers}: the number of a worker, or a list of them, from 1 on")

    def slowdown(self, worker: int) -> float:
        return float(self.factor[worker]) if worker in self.workers else 1.0

    def mean(self, seed: int, worker: int) -> float:
        return self.slowdown(worker) * self.delay.mean(seed, worker)

    def draws(self, seed: int, purpose: str, worker: int, start: int = 0) -> Iterator[float]:
        draws, slowdown = self.delay.draws(seed, purpose, worker, start), self.slowdown(worker)
        return draws if slowdown == 1 else map(slowdown.__mul__, draws)


class Listed(Delay):
    """``seconds[i]`` are the durations of worker i + 1, job after job; each list starts anew where it ends."""

    def __init__(self, seconds: list[list[float]]):
        self.seconds = seconds
        if not isinstance(seconds, list) or not all(isinstance(each, list) for each in seconds):
            raise ValueError(f"seconds={seconds}: a list for each worker, of the seconds of its jobs")
        for each in seconds:
            PerWorker("seconds", each)

    def of(self, worker: int) -> list[float]:
        if worker > len(self.seconds):
            raise ValueError(f"seconds={self.seconds}: a list for each worker; there is none for worker {worker}")
        return [float(each) for each in self.seconds[worker - 1]]

    def mean(self, seed: int, worker: int) -> float:
        return sum(self.of(worker)) / len(self.of(worker))

    def draws(self, seed: int, purpose: str, worker: int, start: int = 0) -> Iterator[float]:
        seconds = self.of(worker)
        first = start % len(seconds)
        return cycle(seconds[first:] + seconds[:first])
