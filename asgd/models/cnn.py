"""A small convolutional network without BatchNorm, for quick experiments on small images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from asgd.models import _checks


def cnn(shape: Sequence[int], classes: int, channels: Sequence[int] = (16, 32)) -> nn.Module:
    """Per entry of ``channels`` a 3x3 convolution, ReLU and 2x2 max-pooling; then one linear layer.

    Maps [n, *shape] to [n, classes or 1], where ``shape`` is [channels, height, width] and each side has at least
    2^len(channels) pixels.
    """
    if not channels or min(channels) < 1:
        raise ValueError(f"channels={list(channels)}: give at least one convolution, each with at least 1 channel")
    depth, height, width = _checks.image(shape, smallest=2 ** len(channels))
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([depth, *channels]):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features = channels[-1] * (height >> len(channels)) * (width >> len(channels))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, _checks.outputs(classes)))
