"""How a task computes: in which precision, and in which order images lie in memory. Parameters stay as they are."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

FP16 = "float16 has gradients that vanish unless the loss is scaled, which is not done here; "


class Compute:
    """``autocast``: bf16 lets torch compute layers in bfloat16 where it holds that to be safe, None leaves it.

    Outputs are widened before the loss, so losses and gradients [P] are float32. ``channels_last`` lays images
    [n, c, h, w] out with the channels next to each other, which convolutions then keep to; their weights stay pieces of
    the flat vector, whose order is part of every message, and are laid out anew in each call.
    """

    def __init__(self, autocast: str | None = None, channels_last: bool = False):
        if autocast not in (None, "bf16"):
            raise ValueError(f"compute.autocast={autocast}: {FP16 * (autocast == 'fp16')}one of null, bf16")
        if not isinstance(channels_last, bool):
            raise ValueError(f"compute.channels_last={channels_last}: true or false")
        self.autocast, self.channels_last = autocast, channels_last

    def check(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        """ValueError for parameters of ``dtype`` and inputs of ``shape`` on which the options have no effect."""
        if self.autocast and dtype != torch.float32:
            raise ValueError(f"compute.autocast={self.autocast}: torch leaves {dtype} as it is; leave it null")
        if self.channels_last and len(shape) != 3:
            raise ValueError(f"compute.channels_last=true: inputs of shape {list(shape)} are no images; leave it false")

    def laid_out(self, inputs: Tensor) -> Tensor:
        """The same ``inputs`` [n, *shape], in the order in memory that is asked for."""
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs

    def precision(self, device: torch.device) -> AbstractContextManager:
        """In which a module computes."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()

    def outputs(self, module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What ``module`` makes of ``inputs``."""
        with self.precision(inputs.device):
            outputs = module(self.laid_out(inputs))
        return outputs.float() if self.autocast else outputs


PLAIN = Compute()
