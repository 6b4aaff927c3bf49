"""Networks without convolutions: a linear map and a multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from asgd.models import _checks


def linear(shape: Sequence[int], classes: int, bias: bool = True, dtype: str = "float32") -> nn.Module:
    """One linear map of the flattened input: softmax regression, or least squares where ``classes`` is 0.

    Maps [n, *shape] to [n, classes or 1]; ``dtype`` is float32 or float64 (for theory).
    """
    layer = nn.Linear(prod(shape), _checks.outputs(classes), bias=bias, dtype=_checks.floating(dtype))
    return nn.Sequential(nn.Flatten(), layer)


def mlp(shape: Sequence[int], classes: int, hidden: Sequence[int] = (64,)) -> nn.Module:
    """Flattened input, one ReLU layer per width in ``hidden``, then a linear one.

    Maps [n, *shape] to [n, classes or 1].
    """
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden={list(hidden)}: every width must be at least 1; [] is a linear model")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise([prod(shape), *hidden]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear([prod(shape), *hidden][-1], _checks.outputs(classes)))
