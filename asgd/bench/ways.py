"""The ways that are compared. Each is a server's and a worker's main function; some have no server."""

from functools import partial
from typing import NamedTuple

from asgd.bench import floor, gloo, ours, tutorial
from asgd.bench.trial import Main


class Way(NamedTuple):
    """``alone``: one process without communication, with all threads or, if not ``threaded``, with one."""

    label: str
    server: Main | None
    worker: Main
    alone: bool = False
    threaded: bool = True
    fewest: int = 1  # workers


WAYS = {
    "slot": Way(
        "ours, gradient in its slot",
        ours.serve, partial(ours.work, payload="shared", in_slot=True),
    ),
    "shards": Way(
        "the same, two shards",
        partial(ours.serve, shards=2), partial(ours.work, payload="shared", in_slot=True),
    ),
    "shared": Way(
        "ours, gradient copied into it",
        ours.serve, partial(ours.work, payload="shared", in_slot=False),
    ),
    "wire": Way("ours, by wire", ours.serve, partial(ours.work, payload="wire", in_slot=False)),
    "tutorial": Way("torch RPC, tutorial", tutorial.serve, tutorial.work),
    "sockets": Way(
        "the same, sockets only",
        partial(tutorial.serve, **tutorial.SOCKETS), partial(tutorial.work, **tutorial.SOCKETS),
    ),
    "gloo": Way("gloo send/recv", gloo.serve, gloo.send),
    "allreduce": Way("gloo all-reduce", None, gloo.reduce, fewest=2),
    "floor": Way("floor, one core", None, floor.run, alone=True, threaded=False),
    "floor_cores": Way("floor, all cores", None, floor.run, alone=True),
}  # fmt: skip
