"""The precision of the models that workers are given: each version is rounded once, and everybody gets that."""

from collections.abc import Callable

import torch

from asgd.messages import Model
from asgd.parameters import Blocks

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """``name``: fp32 leaves parameters as they are; bf16 and fp16 round each to the nearest number of 16 bits.

    The server's own parameters stay as they are, so the roundings do not add up: what a worker computes on is off by at
    most 2^-9 (bf16) or 2^-12 (fp16; 2^-25 for what is below 2^-14) of each parameter, and fp16 makes 65,520 and more
    infinite, which counts as diverged. A worker widens the numbers again, which is exact.
    """

    def __init__(self, name: str = "fp32"):
        if name not in DTYPES:
            raise ValueError(f"wire.weights={name}: one of {', '.join(DTYPES)}")
        self.name, self.dtype, self.blocks = name, DTYPES[name], Blocks()
        self.last: tuple[Model, Model] | None = None  # a model, and what workers are given for it

    def live_in(self, allocate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """What is rounded from now on lies in memory of ``allocate``."""
        self.blocks, self.last = Blocks(allocate), None

    def rounded(self, model: Model) -> Model:
        """What a worker is given for ``model``; the same tensor for the same model."""
        if self.dtype is None:
            return model
        if self.last is None or self.last[0] is not model:
            like = torch.empty(1, dtype=self.dtype).expand(model.params.numel())
            self.last = model, model._replace(params=self.blocks.take(like).copy_(model.params))
        return self.last[1]

    def nbytes(self, params: torch.Tensor) -> int:
        """Of a model's parameters [P] on the way."""
        return params.nbytes if self.dtype is None else params.numel() * self.dtype.itemsize
