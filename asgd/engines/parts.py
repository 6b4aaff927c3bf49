"""The parts of a vector that several servers have, and what becomes of a server's state when it is taken apart."""

import torch
from torch import Tensor

UNIT = 64  # bytes at whose multiples parts begin: torch rounds what is left over beside full registers in another way
WHOLE = "buffers", "published", "leases"  # entries of a server's state of no parameter; the first server has them


def names(servers: int) -> list[str]:
    """Of the servers' nodes."""
    return ["ps", *(f"ps{rank}" for rank in range(2, servers + 1))]


def parts(vector: Tensor, count: int) -> list[slice]:
    """``count`` consecutive parts of a vector [P], equal up to one UNIT. ValueError where it has not that many."""
    unit, size = UNIT // vector.itemsize, vector.numel()
    if count > size // unit:
        raise ValueError(
            f"engine.servers={count}: each needs at least {unit} parameters; this model has {size:,}, "
            f"enough for {max(1, size // unit)}"
        )
    begins = [size // unit * number // count * unit for number in range(count)]
    return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], size], strict=True)]


def cut(state, size: int, part: slice):
    """The state that the server with this ``part`` has, from that of a single server with ``size`` parameters."""
    if isinstance(state, Tensor):
        return state[part].clone() if state.shape == (size,) else state
    if isinstance(state, dict):
        return {key: each if key in WHOLE else cut(each, size, part) for key, each in state.items()}
    return type(state)(cut(each, size, part) for each in state) if isinstance(state, list | tuple) else state


def joined(states: list, sizes: list[int]):
    """The state of a single server from those of several, whose parts have these ``sizes``."""
    first = states[0]
    if isinstance(first, Tensor):
        vectors = [each.shape for each in states] == [(size,) for size in sizes]
        return torch.cat(states) if vectors else first
    if isinstance(first, dict):
        return {key: each if key in WHOLE else _each(states, key, sizes) for key, each in first.items()}
    if isinstance(first, list | tuple):
        return type(first)(_each(states, number, sizes) for number in range(len(first)))
    return first


def _each(states: list, key, sizes: list[int]):
    return joined([state[key] for state in states], sizes)
