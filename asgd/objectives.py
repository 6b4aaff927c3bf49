"""What a run is judged by: entries of its summary, which way is better, and what a run without a value counts."""

from math import inf, isfinite

from asgd.records import is_higher_better


def names(objective: str | list[str]) -> list[str]:
    """One entry of the summary, or several: the first counts most, or a sweeper finds the trade-offs among them."""
    return objective if isinstance(objective, list) else [objective]


def direction(objective: str | list[str]) -> str | list[str]:
    """``minimize`` or ``maximize``, for each one where there are several."""
    if isinstance(objective, list):
        return [direction(each) for each in objective]
    return "maximize" if is_higher_better(objective) else "minimize"


def worst(name: str) -> float:
    return -inf if direction(name) == "maximize" else inf


def value(summary: dict, objective: str | list[str]) -> float | list[float]:
    """What ``asgd.run`` returns. The worst there is for a run that diverged, was not evaluated or missed its target."""
    if isinstance(objective, list):
        return [value(summary, each) for each in objective]
    found = summary[objective]
    good = found is not None and isfinite(found) and summary["ended"] != "diverged"
    return float(found) if good else worst(objective)
