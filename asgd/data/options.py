"""Checks of option values: each message gives the value, what is allowed and what to change."""

from collections.abc import Collection


def at_least(least: int, **options: int | float) -> None:
    """Raise ValueError unless each option is a number of at least ``least``."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, type(least) | int) or not value >= least:
            kind = "an integer" if isinstance(least, int) else "a number"
            raise ValueError(f"dataset.{name}={value!r}: must be {kind} of at least {least}")


def one_of(allowed: Collection[str], **options: str) -> None:
    """Raise ValueError unless each option is one of the allowed words."""
    for name, value in options.items():
        if value not in allowed:
            raise ValueError(f"dataset.{name}={value!r}: must be one of {', '.join(allowed)}")


def top_k(top_k: int | None, classes: int) -> None:
    """Raise ValueError unless ``top_k`` is None or in 1..classes."""
    if top_k is not None:
        at_least(1, top_k=top_k)
        if top_k > classes:
            raise ValueError(f"dataset.top_k={top_k}: must be at most dataset.classes={classes}, or null")


def worker(rank: int, workers: int | None) -> None:
    """Raise ValueError unless ``rank`` is in 1..workers, or from 1 on where their number is not known."""
    if not 1 <= rank <= (workers or rank):
        raise ValueError(f"rank={rank}: must be 1..workers, and workers={workers}")


def no_samples(rank: int, workers: int, samples: int) -> ValueError:
    """The error for a worker that would wait for ever for its first sample."""
    return ValueError(
        f"worker {rank} of {workers} gets no usable sample in an epoch of {samples}: "
        f"use at most {samples} workers, or more or better data"
    )
