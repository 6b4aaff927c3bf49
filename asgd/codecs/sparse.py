"""A few entries for all: those of largest magnitude, or a block at a random place."""

import torch
from torch import Tensor

from asgd.codecs.base import FeedbackCodec, check_fraction

MANY = 1 << 16  # entries from which on counting is the faster way


class Sparse(FeedbackCodec):
    """Sends ``count`` = max(1, round(fraction P)) entries. Sending all of them leaves nothing for the feedback."""

    def __init__(self, *arguments, fraction: float, feedback: bool = True):
        check_fraction(fraction)
        super().__init__(*arguments)
        self.count = max(1, round(fraction * self.size))
        self.feedback = feedback and self.count < self.size
        self.vectors = int(self.feedback)


class TopK(Sparse):
    """The entries of largest magnitude, of equal ones the first (Stich, Cordonnier, Jaggi 2018, arXiv:1809.07599).

    Their indices in ascending order and their values: 8 bytes each (12 beyond 2^31 parameters). What is left out has at
    most 1 - count/P of the squared norm.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.index = torch.int32 if self.size <= 2**31 else torch.int64
        self.layout = ((self.index, self.count), (torch.float32, self.count))

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        indices = largest(vector, self.count)
        return indices.to(self.index), vector[indices]

    def expand(self, indices: Tensor, values: Tensor) -> Tensor:
        if indices[0] < 0 or indices[-1] >= self.size or not (indices[1:] > indices[:-1]).all():
            raise ValueError(f"TopK: the message's indices are not in ascending order from 0 to {self.size - 1}")
        return torch.zeros(self.size).index_copy_(0, indices.long(), values)


class RandomBlock(Sparse):
    """Consecutive entries from a random place on, which go on at 0 after the last one: 4 bytes each, and 8.

    The random block of Vogels et al. 2019, arXiv:1905.13727. Without feedback, values are multiplied by P/count: then
    the mean is the vector, and the mean squared error P/count - 1 of its squared norm.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.layout = ((torch.int64, 1), (torch.float32, self.count))

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        start = int(self.generator().integers(self.size))
        block = torch.cat((vector[start : start + self.count], vector[: max(start + self.count - self.size, 0)]))
        return torch.tensor([start]), block if self.feedback else block.mul_(self.size / self.count)

    def expand(self, start: Tensor, values: Tensor) -> Tensor:
        first = start.item()
        if not 0 <= first < self.size:
            raise ValueError(f"RandomBlock: the message's block starts at {first}, not from 0 to {self.size - 1}")
        vector, before_end = torch.zeros(self.size), self.size - first
        vector[first : first + self.count] = values[:before_end]
        vector[: max(self.count - before_end, 0)] = values[before_end:]
        return vector


def largest(vector: Tensor, count: int) -> Tensor:
    """[count], the ascending indices of the entries of largest magnitude, of equal ones the first."""
    magnitudes = vector.view(torch.int32) & 0x7FFFFFFF  # bits of floating numbers have the order of their magnitudes
    least = _nth_largest(magnitudes, count)
    above = (magnitudes > least).nonzero().squeeze(1)
    equal = (magnitudes == least).nonzero().squeeze(1)[: count - above.numel()]
    return torch.cat((above, equal)).sort().values


def _nth_largest(magnitudes: Tensor, count: int) -> int:
    """Of many by counting the upper and then the lower 16 bits: linear whatever the numbers, also if most are 0."""
    if magnitudes.numel() < MANY:
        return int(magnitudes.kthvalue(magnitudes.numel() - count + 1).values)
    high = magnitudes >> 16
    upper, above = _bin(high, count)
    lower, _ = _bin(magnitudes[high == upper] & 0xFFFF, count - above)
    return upper << 16 | lower


def _bin(values: Tensor, count: int) -> tuple[int, int]:
    """(the ``count``-th largest of ``values`` from 0 to 2^16 - 1, how many are larger)."""
    at_least = torch.bincount(values, minlength=1 << 16).flip(0).cumsum(0)
    place = int(torch.searchsorted(at_least, count))
    return (1 << 16) - 1 - place, int(at_least[place - 1]) if place else 0
