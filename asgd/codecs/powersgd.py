"""PowerSGD: matrices as products of two thin ones (Vogels, Karimireddy, Jaggi, NeurIPS 2019, arXiv:1905.13727)."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from asgd.codecs.base import FeedbackCodec, check_count
from asgd.seeds import rng


class Matrix(NamedTuple):
    """A tensor of the vector as a matrix [rows, columns], the first dimension against the others."""

    start: int
    rows: int
    columns: int
    rank: int

    def of(self, vector: Tensor) -> Tensor:
        """A view of its entries in a vector [P]."""
        return vector[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)


class PowerSGD(FeedbackCodec):
    """``M ~ P Q^T`` of rank r = ``matrix_rank``, by one power iteration from the last round's Q.

    ``P = orthonormal(M Q); Q <- M^T P``, and both are sent. In the paper synchronous workers average P before it is
    made orthonormal, and then Q, and share the Q they start from. With a parameter server nobody need wait: each worker
    has a P and a Q of its own, and a mean over workers may have a higher rank. Vectors, and matrices for which
    r (rows + columns) is not below rows * columns, are sent as they are: 4 bytes for each of their entries,
    4 r (rows + columns) for each other matrix. Reproducible for an equal number of threads, as torch's products are.
    """

    def __init__(self, shapes: Sequence[torch.Size], *arguments, matrix_rank: int = 2, feedback: bool = True):
        check_count("matrix_rank", matrix_rank)
        super().__init__(shapes, *arguments, feedback=feedback)
        self.matrices, self.others = _divided(shapes, matrix_rank)
        self.lefts = [matrix.rows * matrix.rank for matrix in self.matrices]
        self.rights = [matrix.columns * matrix.rank for matrix in self.matrices]
        kept = sum(stop - start for start, stop in self.others)
        self.layout = tuple((torch.float32, size) for size in (kept, sum(self.lefts), sum(self.rights)))
        self.vectors += bool(self.matrices)  # Q, at most [P] and far less for large models
        start = rng(self.seed, "powersgd", self.rank).standard_normal(sum(self.rights), dtype="float32")
        self.right = torch.from_numpy(start)  # Q of all matrices, replaced and never written

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        pairs = [_iterate(each.of(vector), right) for each, right in zip(self.matrices, self._rights(), strict=True)]
        others = [vector[start:stop] for start, stop in self.others]
        return _joined(others), _joined([left for left, _ in pairs]), _joined([right for _, right in pairs])

    def expand(self, others: Tensor, lefts: Tensor, rights: Tensor) -> Tensor:
        vector = torch.empty(self.size)
        pieces = others.split([stop - start for start, stop in self.others])
        for (start, stop), piece in zip(self.others, pieces, strict=True):
            vector[start:stop] = piece
        pairs = zip(lefts.split(self.lefts), rights.split(self.rights), strict=True)
        for matrix, (left, right) in zip(self.matrices, pairs, strict=True):
            torch.mm(left.view(matrix.rows, -1), right.view(matrix.columns, -1).T, out=matrix.of(vector))
        return vector

    def learn(self, target: Tensor, parts: tuple[Tensor, ...]) -> None:
        super().learn(target, parts)
        self.right = parts[2]

    def _rights(self) -> list[Tensor]:
        """Q [columns, rank] of each matrix."""
        pieces = self.right.split(self.rights)
        return [piece.view(each.columns, each.rank) for each, piece in zip(self.matrices, pieces, strict=True)]

    def state_dict(self) -> dict:
        return super().state_dict() | {"right": self.right}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.right = state["right"]


def _divided(shapes: Sequence[torch.Size], rank: int) -> tuple[list[Matrix], list[tuple[int, int]]]:
    """(the matrices that are worth it, the (start, stop) of all other tensors)."""
    matrices, others = [], []
    for shape, stop in zip(shapes, accumulate(map(torch.Size.numel, shapes)), strict=True):
        size = shape.numel()
        rows, columns = (shape[0], size // shape[0]) if size and shape else (0, 0)
        matrix = Matrix(stop - size, rows, columns, min(rank, rows, columns))
        worth = 0 < matrix.rank * (rows + columns) < size
        matrices.append(matrix) if worth else others.append((stop - size, stop))
    return matrices, others


def _iterate(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(P, new Q). Householder's reflections give orthonormal columns even to a P of lower rank, such as 0."""
    left = torch.linalg.qr(matrix @ right).Q
    return left, matrix.T @ left


def _joined(pieces: list[Tensor]) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces]) if pieces else torch.empty(0)
