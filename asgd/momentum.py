"""Rules with a momentum of their own: one for all workers, or one for each.

Hakimi, Barkai, Gabel, Schuster 2019, "Taming Momentum in a Distributed Asynchronous Environment", arXiv:1907.11612.
``momentum`` is gamma; eta, the learning rate, is the optimizer's, which must have no momentum itself. In the state 0.0
stands for a momentum that has not begun; a tensor there is replaced and never written.
"""

import torch

from asgd.rules import MeanOfUpdates


class SharedMomentum(MeanOfUpdates):
    """NAG-ASGD: ``v <- gamma v + g``, a step along v; workers compute at ``x - eta gamma v``."""

    elementwise = True
    looks_ahead = True

    def __init__(self, momentum: float):
        super().__init__()
        self.momentum = _checked(momentum)
        self.velocity: torch.Tensor | float = 0.0  # v [P]

    def direction(self) -> torch.Tensor:
        self.velocity = torch.add(super().direction(), self.velocity, alpha=self.momentum)
        return self.velocity

    def look_ahead(self) -> torch.Tensor | None:
        return self.momentum * self.velocity if isinstance(self.velocity, torch.Tensor) else None

    def state_dict(self) -> dict:
        return super().state_dict() | {"velocity": self.velocity}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.velocity = state["velocity"]


class MomentumPerWorker(MeanOfUpdates):
    """Multi-ASGD: ``v_i <- gamma v_i + g`` for the worker i that has come, a step along v_i; workers compute at x.

    The momentum of a worker that leaves stays, for when it comes back.
    """

    elementwise = True
    vectors = 1  # [P] for each worker

    def __init__(self, momentum: float):
        super().__init__()
        self.momentum = _checked(momentum)
        self.velocities: dict[int, torch.Tensor] = {}  # worker: v_i [P]

    def direction(self) -> torch.Tensor:
        worker = self.received[0][0].worker
        velocity = torch.add(super().direction(), self.velocities.get(worker, 0.0), alpha=self.momentum)
        self.velocities[worker] = velocity
        return velocity

    def state_dict(self) -> dict:
        return super().state_dict() | {"velocities": dict(self.velocities)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.velocities = dict(state["velocities"])


class DanaZero(MomentumPerWorker):
    """DANA-Zero: as Multi-ASGD, and workers compute at ``x - eta gamma sum_j v_j``, where x will soon be."""

    elementwise = True
    looks_ahead = True

    def __init__(self, momentum: float):
        super().__init__(momentum)
        self.total: torch.Tensor | float = 0.0  # sum_j v_j [P], kept up to date at the cost of one addition

    def direction(self) -> torch.Tensor:
        before = self.velocities.get(self.received[0][0].worker, 0.0)
        velocity = super().direction()
        self.total = self.total + (velocity - before)
        return velocity

    def look_ahead(self) -> torch.Tensor | None:
        return self.momentum * self.total if self.velocities else None

    def state_dict(self) -> dict:
        return super().state_dict() | {"total": self.total}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.total = state["total"]


def _checked(momentum: float) -> float:
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: from 0 to below 1")
    return momentum
