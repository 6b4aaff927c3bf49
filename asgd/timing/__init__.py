"""How long things take: the seconds of each worker's jobs, of the exchanges, and of the server's work.

In virtual time these are all the time there is; a real engine sleeps them on top of what its work takes. Every worker
and every purpose has a random stream of its own: the k-th number of one never depends on another, on how many there
are, or on who asked first.
"""

from collections.abc import Iterator
from itertools import repeat
from math import inf
from operator import add

from asgd.timing.delays import (
    CvbHeterogeneous,
    CvbHomogeneous,
    Delay,
    Deterministic,
    Exponential,
    HalfNormal,
    HalfNormalPermuted,
    Listed,
    LogNormal,
    PerWorker,
    SquareRoot,
    Straggler,
    as_delay,
)
from asgd.timing.trace import Trace

__all__ = [
    "CvbHeterogeneous",
    "CvbHomogeneous",
    "Delay",
    "Deterministic",
    "Exponential",
    "HalfNormal",
    "HalfNormalPermuted",
    "Link",
    "Listed",
    "LogNormal",
    "SquareRoot",
    "Straggler",
    "Timing",
    "Trace",
]


class Link:
    """``latency + size / bandwidth`` seconds for a message of ``size`` bytes, one way.

    ``latency`` [s] is a number, a list with one for each worker, or a delay model; ``bandwidth`` [bytes/s] a number or
    a list, None without limit. Messages do not share it: each has the whole.
    """

    def __init__(self, latency=0.0, bandwidth: float | list | None = None):
        self.latency = as_delay("latency", latency)
        self.bandwidth = PerWorker("bandwidth", inf if bandwidth is None else bandwidth, positive=True)

    def draws(self, seed: int, purpose: str, worker: int, size: int, start: int = 0) -> Iterator[float] | None:
        """Endless seconds, one per message; None where they are always 0."""
        transfer = size / self.bandwidth[worker]
        if self.latency is None:
            return repeat(transfer) if transfer else None
        latencies = self.latency.draws(seed, purpose, worker, start)
        return map(transfer.__add__, latencies) if transfer else latencies


class Timing:
    """``compute``: seconds per batch of a worker; ``service``: of the server per arrival; both a number, a list or a
    delay model, None (or 0) for nothing. ``uplink`` and ``downlink``: a ``Link`` to and from the server, None for none.
    """

    def __init__(self, seed: int = 0, compute=None, service=None, uplink=None, downlink=None):
        self.seed = seed
        self.compute, self.service = as_delay("timing.compute", compute), as_delay("timing.service", service)
        self.links = {"downlink": as_link("timing.downlink", downlink), "uplink": as_link("timing.uplink", uplink)}

    def check(self, workers: int) -> None:
        """ValueError unless there are seconds for each of the workers 1..workers, and no more are spoken of."""
        named = getattr(self.compute, "workers", None)
        strangers = [worker for worker in named if worker > workers] if isinstance(named, list) else []
        if strangers:
            raise ValueError(f"timing.compute.workers={strangers}: there are workers 1 to {workers}")
        for worker in range(1, workers + 1):
            self.mean(worker)
            self.link_draws(worker, 0)

    def compute_draws(self, worker: int, start: int = 0) -> Iterator[float]:
        """Endless seconds per batch, one for each job of the worker (1..workers) from its ``start``-th on.

        A round of H batches is one job and takes H times as long. ``inf``: the worker never comes back.
        """
        return self.compute.draws(self.seed, "clock", worker, start) if self.compute else repeat(0.0)

    def link_draws(self, worker: int, size: int, start: int = 0, up: int | None = None) -> Iterator[float] | None:
        """Endless seconds on the way, one for each exchange of ``size`` bytes down and as many, or ``up``, up.

        None without links.
        """
        sizes = {"downlink": size, "uplink": size if up is None else up}
        taken = [draws for way in sizes if (draws := self.way_draws(way, worker, sizes[way], start)) is not None]
        return map(add, *taken) if len(taken) == 2 else next(iter(taken), None)

    def way_draws(self, way: str, worker: int, size: int, start: int = 0) -> Iterator[float] | None:
        """Endless seconds of messages of ``size`` bytes on one of the ``links``; None where they are always 0."""
        return self.links[way].draws(self.seed, way, worker, size, start)

    def service_draws(self, start: int = 0) -> Iterator[float] | None:
        """Endless seconds, one for each arrival at the server; None without. A delay model gives those of worker 1."""
        return self.service.draws(self.seed, "service", 1, start) if self.service else None

    def mean(self, worker: int) -> float:
        """Expected seconds per batch of this worker; where its machine was drawn, of this machine."""
        return self.compute.mean(self.seed, worker) if self.compute else 0.0


def as_link(name: str, value) -> Link:
    """A ``Link`` as it is, None for one that takes no time; anything else is a latency."""
    return value if isinstance(value, Link) else Link(as_delay(name, value))
