"""What codecs have in common: the message, its checks, the random stream, error feedback."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asgd.seeds import rng

Layout = tuple[tuple[torch.dtype, int], ...]  # of a message: dtype and number of entries of each part


class Encoded(NamedTuple):
    """What travels: 1-D contiguous tensors on the CPU, which nobody writes again.

    No parts at all stand for a vector that was not finite.
    """

    parts: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of all parts. Their dtypes and sizes are known at both ends, so there is no header."""
        return sum(part.nbytes for part in self.parts)


LOST = Encoded(())


class Codec:
    """One for each worker and direction. It is made of the ``shapes`` of the tensors that a vector [P] concatenates.

    A subclass says the ``layout`` of its messages, ``compress``es a finite vector into such parts and ``expand``s them
    again. A vector with an entry that is not finite, or with numbers too large for the codec, travels as no parts and
    leaves what the codec has learned as it was; it decodes to NaN, which no server applies. Randomness follows from
    (seed, rank, round), where ``round`` counts what has been encoded.
    """

    vectors = 0  # [P] that it keeps from round to round
    layout: Layout = ()

    def __init__(self, shapes: Sequence[torch.Size], seed: int, rank: int):
        self.sizes = [torch.Size(shape).numel() for shape in shapes]
        self.size, self.seed, self.rank, self.round = sum(self.sizes), seed, rank, 0
        if not self.size:
            raise ValueError(f"shapes={list(shapes)}: a codec needs a parameter at least")

    @property
    def nbytes(self) -> int:
        """Of each message that is not lost."""
        return sum(dtype.itemsize * count for dtype, count in self.layout)

    def encode(self, vector: Tensor) -> Encoded:
        """The message for a ``vector`` [P], float32 on the CPU, which is neither changed nor kept."""
        self._check_vector(vector)
        encoded = Encoded(self.compress(vector.contiguous())) if finite(vector) else LOST
        self.round += 1
        return encoded if all(map(finite, encoded.parts)) else LOST

    def decode(self, encoded: Encoded) -> Tensor:
        """[P], a fresh vector. Depends on the message and the options only. ValueError for what no ``encode`` makes."""
        if not isinstance(encoded, Encoded):
            raise ValueError(f"{type(self).__name__} decodes what a codec has encoded, not {type(encoded).__name__}")
        if not encoded.parts:
            return torch.full((self.size,), torch.nan)
        self._check_parts(encoded.parts)
        return self.expand(*encoded.parts)

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        """The parts for a finite ``vector`` [P]; shares no memory with it and changes no state."""
        raise NotImplementedError

    def expand(self, *parts: Tensor) -> Tensor:
        """[P] from parts of the right layout, whose floating numbers are finite."""
        raise NotImplementedError

    def generator(self) -> np.random.Generator:
        """The random stream of this round."""
        return rng(self.seed, "codec", self.rank, self.round)

    def state_dict(self) -> dict:
        return {"round": self.round}

    def load_state_dict(self, state: dict) -> None:
        self.round = state["round"]

    def _check_vector(self, vector: Tensor) -> None:
        found = (vector.dtype, tuple(vector.shape), vector.device.type)
        if found != (torch.float32, (self.size,), "cpu"):
            raise ValueError(
                f"{type(self).__name__} encodes float32 vectors [{self.size}] on the CPU, not {found[0]} "
                f"{list(found[1])} on {found[2]}; choose a model of dtype float32, or codec=none"
            )

    def _check_parts(self, parts: tuple[Tensor, ...]) -> None:
        found = tuple((part.dtype, *part.shape) if isinstance(part, Tensor) else type(part) for part in parts)
        if found != self.layout:
            raise ValueError(
                f"{type(self).__name__} decodes parts {self.layout}, not {found}; "
                "both ends need the same model and the same codec with the same options"
            )
        if not all(map(finite, parts)):
            raise ValueError(f"{type(self).__name__}: the message has a number that is not finite")


class Identity(Codec):
    """Everything travels as it is, float64 too."""

    def encode(self, vector: Tensor) -> Encoded:
        self._check_size(vector)
        return Encoded((vector.clone(),))

    def decode(self, encoded: Encoded) -> Tensor:
        if len(encoded.parts) != 1:
            raise ValueError(f"Identity decodes a single part, not {len(encoded.parts)}")
        self._check_size(encoded.parts[0])
        return encoded.parts[0].clone()

    def _check_size(self, vector: Tensor) -> None:
        shape = vector.shape if isinstance(vector, Tensor) else type(vector)
        if shape != (self.size,):
            raise ValueError(f"Identity takes vectors [{self.size}], not {shape}")


class FeedbackCodec(Codec):
    """Error feedback: what a message leaves out is added to the next vector (Seide et al., Interspeech 2014).

    ``p = v + e; send C(p); e <- p - C(p)``, so all that was sent and e [P] add up to all inputs. Where v is a gradient,
    e is in units of gradients: x - lr e follows uncompressed SGD while the learning rate is constant, and only then
    (Karimireddy et al., ICML 2019, arXiv:1901.09847, keep e in units of steps).
    """

    def __init__(self, shapes: Sequence[torch.Size], seed: int, rank: int, feedback: bool = True):
        if not isinstance(feedback, bool):
            raise ValueError(f"codec.feedback={feedback}: must be true or false")
        super().__init__(shapes, seed, rank)
        self.feedback, self.vectors = feedback, int(feedback)
        self.residual: Tensor | None = None  # e, replaced and never written

    def encode(self, vector: Tensor) -> Encoded:
        self._check_vector(vector)
        target = vector if self.residual is None else vector + self.residual
        encoded = super().encode(target)
        if encoded.parts:
            self.learn(target, encoded.parts)
        return encoded

    def learn(self, target: Tensor, parts: tuple[Tensor, ...]) -> None:
        """Keep what the next round needs, after ``target`` [P] has been sent as ``parts``."""
        if self.feedback:
            sent = self.expand(*parts)
            self.residual = torch.sub(target, sent, out=sent)

    def state_dict(self) -> dict:
        return super().state_dict() | {"residual": self.residual}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.residual = state["residual"]


def finite(values: Tensor) -> bool:
    """Whether all are; in one pass that allocates nothing."""
    if not values.is_floating_point() or not values.numel():
        return True
    return all(isfinite(bound.item()) for bound in values.aminmax())


def check_fraction(fraction: float) -> None:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ValueError(f"codec.fraction={fraction}: of the entries to send, more than 0 and at most 1")


def check_count(option: str, value: int, most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 1 or (most is not None and value > most):
        allowed = "from 1 on" if most is None else f"from 1 to {most}"
        raise ValueError(f"codec.{option}={value}: a whole number {allowed}")
