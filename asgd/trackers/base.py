"""What a tracker is."""

from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import NamedTuple


class Point(NamedTuple):
    """``figures`` by name, at a ``version`` of the server and after so many ``seconds`` of the run's time."""

    version: int
    seconds: float
    figures: dict[str, float]


class Tracker:
    """Is opened once, given points in the order they come, and closed with the summary. Nobody waits for it."""

    option = ""  # as a person types it
    packages: tuple[str, ...] = ()  # that it needs

    def check(self) -> None:
        """ValueError where a package is missing."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            extra = self.option.removeprefix("tracker=").removesuffix("=true")
            raise ValueError(f"{self.option}: needs {' and '.join(missing)}; pip install 'asgd[{extra}]'")

    def open(self, folder: Path, parameters: dict, begun: float, version: int) -> None:
        """Start in the run's ``folder``, or go on there after ``version``.

        ``parameters`` are flat. ``begun`` is when the run's time was 0, in seconds of the calendar.
        """
        raise NotImplementedError

    def write(self, points: list[Point]) -> None:
        raise NotImplementedError

    def close(self, summary: dict) -> None:
        """``summary`` may be empty, where the run came to none."""
        raise NotImplementedError


class Nothing(Tracker):
    """No tracker."""


def numbers(summary: dict) -> dict[str, float]:
    """Those of a summary's entries that are finite numbers."""
    return {name: value for name, value in summary.items() if isinstance(value, int | float) and isfinite(value)}
