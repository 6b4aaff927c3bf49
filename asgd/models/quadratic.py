"""The quadratic on which asynchronous methods are compared with exact knowledge of the optimum.

The default is the problem of Maranjyan, Tyurin and Richtarik, "Ringmaster ASGD", ICML 2025, arXiv:2501.16168:
A = tridiag(-1, 2, -1) / 4, b = (-1, 0, ..., 0) / 4, x_0 = sqrt(d) e_1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asgd.models import _checks


class Quadratic(nn.Module):
    """One parameter vector x [d] and f(x; xi) = x^T A x / 2 - b^T x + xi^T x, so that grad f = A x - b + xi.

    Maps noise xi [n, d] to the n values f(x; xi) [n]; their mean is the loss.

    shape: [d]. eigenvalues: of a diagonal A; None stands for the tridiagonal A. b, start (x_0): see above; None stands
    for sqrt(d) e_1. Each of the three is one number for all coordinates, or the first ones in a list, zeros after
    them. dtype: float32 or float64.
    """

    def __init__(
        self,
        shape: Sequence[int],
        eigenvalues: float | Sequence[float] | None = None,
        b: float | Sequence[float] = (-0.25,),
        start: float | Sequence[float] | None = None,
        dtype: str = "float64",
    ):
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"shape={list(shape)}: a quadratic needs noise vectors, of shape [d]")
        dimension, kind = shape[0], _checks.floating(dtype)
        start = (dimension**0.5,) if start is None else start
        diagonal = None if eigenvalues is None else _vector("eigenvalues", eigenvalues, dimension, kind)
        self.x = nn.Parameter(_vector("start", start, dimension, kind))
        self.register_buffer("eigenvalues", diagonal, persistent=False)  # constants, not part of the model's state
        self.register_buffer("b", _vector("b", b, dimension, kind), persistent=False)

    def forward(self, noise: Tensor) -> Tensor:
        # Products are summed by themselves: a stack adds up ``@`` in another order, and has other last bits.
        return self._curved() + ((noise - self.b) * self.x).sum(-1)

    def _curved(self) -> Tensor:
        """x^T A x / 2, a scalar, without building A."""
        if self.eigenvalues is None:
            return (self.x.square().sum() - (self.x[1:] * self.x[:-1]).sum()) / 4
        return (self.eigenvalues * self.x.square()).sum() / 2


def _vector(name: str, values: float | Sequence[float], dimension: int, dtype: torch.dtype) -> Tensor:
    if isinstance(values, int | float):
        return torch.full((dimension,), float(values), dtype=dtype)
    if len(values) > dimension:
        raise ValueError(f"{name} has {len(values)} values but there are {dimension} coordinates; give at most as many")
    vector = torch.zeros(dimension, dtype=dtype)
    vector[: len(values)] = torch.tensor(list(values), dtype=dtype)
    return vector
