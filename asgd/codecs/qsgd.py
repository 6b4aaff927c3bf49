"""QSGD: a few random levels for each number (Alistarh et al., NeurIPS 2017, arXiv:1610.02132)."""

import torch
from torch import Tensor

from asgd.codecs.base import Codec, check_count


class QSGD(Codec):
    """``norm(v) sign(v_j) l/s``, with l one of the two whole numbers around ``s abs(v_j) / norm(v)``, of that mean.

    ``levels`` is s; ``bucket`` = d consecutive entries share a Euclidean norm, as in the paper's practice (None: all
    P). In each bucket the mean squared error is at most min(d/s^2, sqrt(d)/s) of the squared norm. Numbers take 2 bits
    for s = 1, 4 up to s = 7 and 8 up to s = 127: ceil(P bits/8) + 4 ceil(P/d) bytes. The paper's Elias code, which
    takes less where most numbers are 0, is not used. The mean is exact but for float32, 2^-17 of a level.
    """

    def __init__(self, *arguments, levels: int = 7, bucket: int | None = 512):
        check_count("levels", levels, 127)
        if bucket is not None:
            check_count("bucket", bucket)
        super().__init__(*arguments)
        self.levels, self.bucket = levels, min(bucket or self.size, self.size)
        self.bits = next(bits for bits in (2, 4, 8) if 2 * levels < 1 << bits)
        self.buckets = -(-self.size // self.bucket)
        self.layout = ((torch.uint8, -(-self.size * self.bits // 8)), (torch.float32, self.buckets))

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        rows = _padded(vector, self.bucket)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).float()  # squares may leave float32's range
        scaled = rows.abs().div_(norms.where(norms > 0, 1.0)[:, None]).mul_(self.levels)
        noise = self.generator().random(scaled.shape, dtype="float32")
        numbers = scaled.add_(torch.from_numpy(noise)).floor_().clamp_(max=self.levels).copysign_(rows)
        return _packed(numbers.add_(self.levels).to(torch.uint8).view(-1)[: self.size], self.bits), norms

    def expand(self, packed: Tensor, norms: Tensor) -> Tensor:
        numbers = _unpacked(packed, self.bits)[: self.size]
        if numbers.max() > 2 * self.levels or norms.min() < 0:
            raise ValueError(f"QSGD: the message has a negative norm, or a level above codec.levels={self.levels}")
        rows = _padded(numbers.float().sub_(self.levels), self.bucket)
        return rows.mul_(norms[:, None] / self.levels).view(-1)[: self.size]


def _padded(vector: Tensor, columns: int) -> Tensor:
    """[rows, columns], with zeros at the end if ``columns`` does not divide; shares the vector's memory if it does."""
    missing = -vector.numel() % columns
    return (torch.nn.functional.pad(vector, (0, missing)) if missing else vector).view(-1, columns)


def _packed(numbers: Tensor, bits: int) -> Tensor:
    """Numbers [n] of so many bits, 8/bits of them in a byte, the first one lowest."""
    columns = _padded(numbers, 8 // bits)
    packed = columns[:, 0].clone()
    for place in range(1, 8 // bits):
        packed |= columns[:, place] << bits * place
    return packed


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    columns = torch.empty(packed.numel(), 8 // bits, dtype=torch.uint8)
    for place in range(8 // bits):
        columns[:, place] = packed >> bits * place & (1 << bits) - 1
    return columns.view(-1)
