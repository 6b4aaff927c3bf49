"""The server's step on a CUDA device, where the optimizer, its state and a twin of the parameters are.

Versions and directions are on the host, as for steps there: a direction goes to the device, and the parameters come
back. Where the host's memory is pinned, the device copies both by itself.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from asgd.staging import Staging


class DeviceStepper:
    """As ``asgd.kernels.Stepper``, for ``params`` [P] on the host and an optimizer on ``device``, with its bits."""

    def __init__(
        self,
        params: nn.Parameter,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        device: torch.device,
    ):
        self.params, self.staging = params, Staging(device)
        self.twin = nn.Parameter(params.detach().to(device, copy=True))
        self.twin.grad = torch.empty_like(self.twin)
        self.optimizer = optimizer([self.twin])

    def into(self, following: Tensor, direction: Tensor) -> None:
        """One step along ``direction`` [P]: the parameters after it are in ``following`` [P], which they now lie in."""
        self.twin.grad.copy_(direction, non_blocking=True)
        self.optimizer.step()
        self.staging.send(following, self.twin.detach())
        self.staging.wait()
        self.params.data = following

    def restart(self) -> None:
        """Go on from the host's parameters."""
        self.twin.data.copy_(self.params.data)
