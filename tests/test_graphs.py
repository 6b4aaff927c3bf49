"""Recorded graphs: the bits of the function, for every shape, and the function itself where nothing can be recorded."""

import pytest
import torch
from torch.func import grad, vmap

from asgd.engines.graphs import Recorded


def slopes(vectors: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return vmap(grad(lambda vector, some: torch.tanh(some @ vector).square().mean()))(vectors, inputs)


class Counted:
    """How often a function is called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *tensors):
        self.calls += 1
        return self.function(*tensors)


def pair(count: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 5, dtype=dtype), torch.randn(count, 8, 5, dtype=dtype)


def test_a_graph_is_recorded_once_for_each_shape_and_precision():
    counted = Counted(slopes)
    recorded = Recorded(counted, most=4)
    for _ in range(5):
        for tensors in (pair(3), pair(6), pair(3, torch.float64)):
            assert torch.equal(recorded(*tensors), slopes(*tensors))
    assert counted.calls == 3


def test_beyond_the_most_the_function_is_called():
    counted = Counted(slopes)
    recorded = Recorded(counted, most=1)
    for _ in range(3):
        for tensors in (pair(3), pair(6)):
            assert torch.equal(recorded(*tensors), slopes(*tensors))
    assert counted.calls == 1 + 3


def test_what_decides_by_values_is_called():
    def function(tensor):
        return tensor if tensor.sum() > 0 else -tensor

    recorded = Recorded(function, most=1)
    for value in (1.0, -2.0, 3.0):
        assert recorded(torch.tensor([value])).item() == abs(value)


def test_an_error_is_the_functions_own():
    with pytest.raises(RuntimeError, match="size"):
        Recorded(slopes, most=1)(torch.randn(3, 5), torch.randn(3, 8, 4))
