"""The ways that are compared. Each is a server's and a worker's main function; some have no server."""

from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from asgd.bench import floor, gloo, ours, ray_actors, servers, star, tutorial
from asgd.bench.trial import Main


class Way(NamedTuple):
    """``alone``: one process without communication, with all threads or, if not ``threaded``, with one.

    ``package``: what has to be installed for it.
    """

    label: str
    server: Main | None
    worker: Main
    alone: bool = False
    threaded: bool = True
    fewest: int = 1  # workers
    package: str | None = None
    others: tuple[Main, ...] = ()  # servers beside the first

    @property
    def possible(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or find_spec(self.package) is not None


WAYS = {
    "slot": Way(
        "ours, gradient in its slot",
        ours.serve, partial(ours.work, payload="shared", in_slot=True),
    ),
    "shards": Way(
        "the same, two shards",
        partial(ours.serve, shards=2), partial(ours.work, payload="shared", in_slot=True),
    ),
    "servers2": Way(
        "the same, two servers",
        servers.lead, partial(ours.work, payload="shared", in_slot=True, servers=servers.COUNT),
        others=(servers.follow,),
    ),
    "shared": Way(
        "ours, gradient copied into it",
        ours.serve, partial(ours.work, payload="shared", in_slot=False),
    ),
    "zmq": Way(
        "ours over zmq, in its slot",
        star.serve, partial(star.work, payload="shared", in_slot=True),
    ),
    "zmq_wire": Way("ours over zmq, by wire", star.serve, partial(star.work, payload="wire", in_slot=False)),
    "wire": Way("ours, by wire", ours.serve, partial(ours.work, payload="wire", in_slot=False)),
    "tutorial": Way("torch RPC, tutorial", tutorial.serve, tutorial.work),
    "sockets": Way(
        "the same, sockets only",
        partial(tutorial.serve, **tutorial.SOCKETS), partial(tutorial.work, **tutorial.SOCKETS),
    ),
    "gloo": Way("gloo send/recv", gloo.serve, gloo.send),
    "allreduce": Way("gloo all-reduce", None, gloo.reduce, fewest=2),
    "ray": Way(
        "Ray, as in its example",
        partial(ray_actors.serve, actor=ray_actors.Example), partial(ray_actors.work, flat=False), package="ray",
    ),
    "ray_flat": Way(
        "Ray, one flat array",
        partial(ray_actors.serve, actor=ray_actors.Flat), partial(ray_actors.work, flat=True), package="ray",
    ),
    "floor": Way("floor, one core", None, floor.run, alone=True, threaded=False),
    "floor_cores": Way("floor, all cores", None, floor.run, alone=True),
}  # fmt: skip
