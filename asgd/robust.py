"""Rules for workers of which some may send anything: so far off, or so often, that a mean would go wherever they like.

Each takes the payloads of K different workers, so nobody counts twice in a step however fast it is. What is not finite
never comes here (``asgd.gate``).
"""

from collections.abc import Callable, Sequence
from math import ceil

import torch
from torch import Tensor

from asgd.rules import MeanOfWorkers

CHUNK = 1 << 17  # numbers that are sorted at a time: those of all rows stay in the processor's cache


class OfWorkers(MeanOfWorkers):
    """What these rules have in common: the first ``count`` = K of the ``workers``, None for all.

    A step is made with fewer where the others have left. The weight multiplies each payload.
    """

    def __init__(self, count: int | None, workers: int):
        count = workers if count is None else count
        if not isinstance(count, int) or not 1 <= count <= workers:
            raise ValueError(f"count={count}: workers in a step, 1 to workers = {workers}")
        super().__init__(count)

    def direction(self) -> Tensor:
        received, self.received = self._ordered(), []
        return self.of([each.payload if weight == 1.0 else weight * each.payload for each, weight in received])

    def of(self, rows: list[Tensor]) -> Tensor:
        """[P] of the workers' payloads, [P] each, in the order of their numbers."""
        raise NotImplementedError


class CoordinateMedian(OfWorkers):
    """The median of each coordinate; of an even number of workers the mean of the two in the middle.

    Within what honest workers sent as long as they are more than half (Yin, Chen, Ramchandran, Bartlett, ICML 2018,
    arXiv:1803.01498).
    """

    elementwise = True

    def of(self, rows: list[Tensor]) -> Tensor:
        return median(rows)


class TrimmedMean(OfWorkers):
    """The mean of each coordinate without the ``trim`` largest and ``trim`` smallest of it.

    ``trim`` below 1 is a share of K, rounded up. Within what honest workers sent as long as at most so many are not
    (Yin et al., ICML 2018, arXiv:1803.01498). Of the few that are left where others have gone as many are taken off as
    leave one or two, which is the median.
    """

    elementwise = True

    def __init__(self, count: int | None, trim: float, workers: int):
        super().__init__(count, workers)
        self.trim = ceil(trim * self.count) if 0 < trim < 1 else trim
        if self.trim != int(self.trim) or not 0 <= 2 * self.trim < self.count:
            raise ValueError(
                f"trim={trim}: a whole number, or a share below 1, that taken off both ends leaves some of the "
                f"count = {self.count} workers in a step"
            )
        self.trim = int(self.trim)

    def of(self, rows: list[Tensor]) -> Tensor:
        trim = min(self.trim, (len(rows) - 1) // 2)
        return in_chunks(lambda chunk: mean(ordered(chunk)[trim : len(rows) - trim]), rows)


class Krum(OfWorkers):
    """The mean of the ``select`` = m payloads that are nearest to the others: 1 is Krum, more is Multi-Krum.

    A payload is judged by the sum of the squared distances to its K - ``byzantine`` - 2 nearest; of equals the smaller
    worker is taken. ``byzantine`` = f: so many of the K may send anything, 2 f + 3 at most K; None for as many as K
    allows. ``select`` None: K - f - 2. Costs K^2 distances a step. Where workers have left and fewer than 2 f + 3 are
    there, the step is along the median of each coordinate.

    Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, arXiv:1703.02757.
    """

    def __init__(self, count: int | None, byzantine: int | None, workers: int, select: int | None = 1):
        super().__init__(count, workers)
        most = (self.count - 3) // 2
        self.byzantine = max(0, most) if byzantine is None else byzantine
        if not isinstance(self.byzantine, int) or not 0 <= self.byzantine <= most:
            raise ValueError(
                f"byzantine={byzantine}: needs 2 byzantine + 3 workers in a step, at least 3; count = {self.count} has "
                f"room for {most if most >= 0 else 'none'}"
            )
        self.select = self.count - self.byzantine - 2 if select is None else select
        if not isinstance(self.select, int) or not 1 <= self.select <= self.count - self.byzantine:
            raise ValueError(
                f"select={select}: payloads in the mean, 1 to count - byzantine = {self.count - self.byzantine}"
            )

    def of(self, rows: list[Tensor]) -> Tensor:
        if len(rows) < 2 * self.byzantine + 3:
            return median(rows)
        chosen = scores(rows, len(rows) - self.byzantine - 2).argsort(stable=True)[: self.select]
        return mean([rows[number] for number in sorted(chosen.tolist())])


def scores(rows: Sequence[Tensor], nearest: int) -> Tensor:
    """[K], of each row the sum of the squared distances to so many ``nearest`` others."""
    distances = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for one, row in enumerate(rows):
        for other in range(one):
            distances[one, other] = distances[other, one] = torch.dist(row, rows[other]).double() ** 2
    return distances.fill_diagonal_(torch.inf).sort(dim=1).values[:, :nearest].sum(dim=1)


def median(rows: Sequence[Tensor]) -> Tensor:
    """[P], the median of each coordinate."""
    middle = slice((len(rows) - 1) // 2, len(rows) // 2 + 1)
    return in_chunks(lambda chunk: mean(ordered(chunk)[middle]), rows)


def mean(rows: Sequence[Tensor]) -> Tensor:
    """[P], summed in this order, each divided before: no sum is larger than the largest of them."""
    total = torch.zeros_like(rows[0])
    for row in rows:
        total.add_(row, alpha=1 / len(rows))
    return total


def in_chunks(function: Callable[[list[Tensor]], Tensor], rows: Sequence[Tensor]) -> Tensor:
    """[P], what ``function`` makes of the rows, of some coordinates at a time."""
    result = torch.empty_like(rows[0])
    for start in range(0, len(result), CHUNK):
        chunk = slice(start, start + CHUNK)
        result[chunk] = function([row[chunk] for row in rows])
    return result


def ordered(rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows with each coordinate sorted, the smallest first: K turns in which neighbours change places.

    A tenth of the time of ``torch.sort``, which for every coordinate goes through distant memory.
    """
    rows = list(rows)
    for turn in range(len(rows)):
        for low in range(turn % 2, len(rows) - 1, 2):
            pair = rows[low], rows[low + 1]
            rows[low], rows[low + 1] = torch.minimum(*pair), torch.maximum(*pair)
    return rows
