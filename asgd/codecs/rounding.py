"""16 bits for each number: bfloat16 and float16, rounded to nearest or, without bias, at random."""

from math import frexp

import numpy as np
import torch
from torch import Tensor

from asgd.codecs.base import Codec

TINY = 2.0**-14  # the smallest normal number of float16


class BFloat16(Codec):
    """The range of float32 with 8 bits of precision; ``stochastic`` rounds up or down with the mean unchanged.

    The error of x is at most 2^-7 abs(x) or, below 2^-126, 2^-133; half of that without ``stochastic``. 2 P bytes.
    Numbers that are rounded to 2^128 count as not finite.
    """

    def __init__(self, *arguments, stochastic: bool = False):
        super().__init__(*arguments)
        self.stochastic = stochastic
        self.layout = ((torch.bfloat16, self.size),)

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        return ((_at_random(vector, 16, self.generator()) if self.stochastic else vector).bfloat16(),)

    def expand(self, values: Tensor) -> Tensor:
        return values.float()


class Float16(Codec):
    """11 bits of precision, after division by a power of two that puts the largest magnitude into [2^14, 2^15).

    So nothing overflows, and what is 2^-28 of the largest magnitude still has its 11 bits; below that the steps are
    equal, 2^-39 of the power of two above the largest magnitude. The error of x is at most such a step or 2^-10 abs(x),
    half of that without ``stochastic``. 2 P + 1 bytes. Numbers that are rounded to 2^128 decode to inf.
    """

    LEAST, MOST = -120, 113  # of the exponent: the powers and their inverses are normal numbers of float32

    def __init__(self, *arguments, stochastic: bool = False):
        super().__init__(*arguments)
        self.stochastic = stochastic
        self.layout = ((torch.float16, self.size), (torch.int8, 1))

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        largest = max(abs(bound.item()) for bound in vector.aminmax())
        exponent = min(max(frexp(largest)[1] - 15, self.LEAST), self.MOST)
        scaled = vector * 2.0**-exponent
        if self.stochastic:
            scaled = self._at_random(scaled)
        return scaled.half(), torch.tensor([exponent], dtype=torch.int8)

    def _at_random(self, scaled: Tensor) -> Tensor:
        """Float16's numbers below TINY are equally spaced; so are float32's, at the same steps, once TINY is added.

        The sum is a float32: for these numbers the mean is right to 2^-14 of a step.
        """
        offset = torch.where(scaled.abs() < TINY, torch.full_like(scaled, TINY).copysign_(scaled), 0.0)
        return _at_random(scaled.add_(offset), 13, self.generator()).sub_(offset)

    def expand(self, values: Tensor, exponent: Tensor) -> Tensor:
        power = exponent.item()
        if not self.LEAST <= power <= self.MOST:
            raise ValueError(f"Float16: the message has exponent {power}, not one from {self.LEAST} to {self.MOST}")
        return values.float().mul_(2.0**power)


def _at_random(vector: Tensor, bits: int, generator: np.random.Generator) -> Tensor:
    """[P], float32 without its lowest ``bits`` (at most 16) of the significand: up as often as these say, else down."""
    noise = generator.integers(0, 1 << 16, vector.numel(), dtype=np.uint16)
    noise >>= 16 - bits
    number = vector.numpy().view(np.uint32) + noise  # a carry into the exponent is the next power of two
    number &= np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return torch.from_numpy(number.view(np.float32))
