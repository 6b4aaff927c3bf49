"""Finding the best value of one option in a fixed number of trials, the same number for each that is compared."""

from itertools import count


class Search:
    """Tries ``trials`` values of the form ``start * factor ** k``, k being the *place* of a value.

    The first three are places -2, 0 and 2. Then one by one: two places beyond the best while that is the smallest or
    the largest, else the untried place nearest to the best, on the side of its better neighbour first. A score is a
    tuple and smaller is better; of equal ones the smaller value wins.
    """

    def __init__(self, start: float, factor: float, trials: int):
        if not start > 0:
            raise ValueError(f"start={start}: the value to begin with, above 0")
        if not factor > 1:
            raise ValueError(f"factor={factor}: between two neighbouring values, above 1")
        if not isinstance(trials, int) or trials < 3:
            raise ValueError(f"trials={trials}: values to try, 3 or more")
        self.start, self.factor, self.trials = start, factor, trials
        self.scores: dict[int, tuple[float, ...]] = {}  # by place

    def value(self, place: int) -> float:
        return float(f"{self.start * self.factor**place:.6g}")

    def tell(self, place: int, score: tuple[float, ...]) -> None:
        self.scores[place] = score

    @property
    def best(self) -> int:
        """The place of the best value so far."""
        return min(self.scores, key=lambda place: (self.scores[place], place))

    @property
    def at_edge(self) -> bool:
        """Whether the best value is the smallest or the largest that was tried: a better one may lie beyond."""
        return self.best in (min(self.scores), max(self.scores))

    @property
    def settled(self) -> bool:
        """Whether both places beside the best were tried; else a better value may be there, or beyond the edge."""
        return {self.best - 1, self.best + 1} <= self.scores.keys()

    def next(self) -> list[int]:
        """The places to try now; none when all trials are used."""
        if not self.scores:
            return [-2, 0, 2]
        if len(self.scores) >= self.trials:
            return []
        return [self._beyond() if self.at_edge else self._nearest()]

    def _beyond(self) -> int:
        return self.best - 2 if self.best == min(self.scores) else self.best + 2

    def _nearest(self) -> int:
        best, scores = self.best, self.scores
        below, above = max(each for each in scores if each < best), min(each for each in scores if each > best)
        sides = (-1, 1) if scores[below] <= scores[above] else (1, -1)
        return next(best + far * side for far in count(1) for side in sides if best + far * side not in scores)
