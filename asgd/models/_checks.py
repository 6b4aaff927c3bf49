"""What the models ask of their options: each function returns the usable value or raises a ValueError."""

from collections.abc import Sequence

import torch


def outputs(classes: int) -> int:
    """Width of the last layer: one output per class, or a single one where ``classes`` is 0 (regression)."""
    if classes < 0:
        raise ValueError(f"classes={classes}: give the number of classes, or 0 for one output without classes")
    return classes or 1


def image(shape: Sequence[int], smallest: int) -> tuple[int, int, int]:
    """``shape`` as (channels, height, width), with both sides of at least ``smallest`` pixels."""
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise ValueError(
            f"shape={list(shape)} is not [channels, height, width] with at least {smallest}x{smallest} pixels, "
            "which this model needs; choose another data set, or model=mlp"
        )
    return tuple(shape)


def floating(dtype: str) -> torch.dtype:
    """The torch dtype of that name."""
    allowed = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in allowed:
        raise ValueError(f"dtype={dtype!r} is not known; use one of {', '.join(allowed)}")
    return allowed[dtype]
