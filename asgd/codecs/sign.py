"""One bit for each number."""

import numpy as np
import torch
from torch import Tensor

from asgd.codecs.base import FeedbackCodec


class Sign(FeedbackCodec):
    """Signs, times the mean magnitude of their tensor: EF-signSGD (Karimireddy et al., ICML 2019, arXiv:1901.09847).

    As in the paper's experiments each tensor (d entries) has its own scale. What is left out of a tensor p has the
    squared norm ``|p|_2^2 - |p|_1^2 / d``. 0 counts as positive, since a bit cannot say more; the feedback takes that
    back. ceil(P/8) bytes, and 4 for each tensor. ``feedback=False`` is scaled signSGD (Bernstein et al., ICML 2018,
    arXiv:1802.04434), which is biased and need not converge.
    """

    def __init__(self, *arguments, feedback: bool = True):
        super().__init__(*arguments, feedback=feedback)
        self.layout = ((torch.uint8, -(-self.size // 8)), (torch.float32, len(self.sizes)))

    def compress(self, vector: Tensor) -> tuple[Tensor, ...]:
        totals = [piece.sum() for piece in vector.abs().split(self.sizes)]
        scales = torch.stack(totals) / torch.tensor(self.sizes).clamp_(min=1)
        return torch.from_numpy(np.packbits(vector.numpy() >= 0)), scales

    def expand(self, bits: Tensor, scales: Tensor) -> Tensor:
        signs = torch.from_numpy(np.unpackbits(bits.numpy(), count=self.size)).float().mul_(2).sub_(1)
        for piece, scale in zip(signs.split(self.sizes), scales, strict=True):
            piece.mul_(scale)
        return signs
