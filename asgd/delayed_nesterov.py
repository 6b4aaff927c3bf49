"""Delayed Nesterov: the outer momentum of asynchronous Local SGD (Liu et al. 2024, arXiv:2401.09135, Algorithm 3)."""

import torch

from asgd.rules import MeanOfUpdates


class DelayedNesterov(MeanOfUpdates):
    """A step for every arrival, but momentum from the mean of ``count`` = N of them.

    With payload g, momentum factor beta = ``momentum`` and c = ``spread`` from 0 to 1/N, arrivals that are not an
    N-th one step along ``c beta m + g / N``; every N-th first makes ``m <- beta m + Delta / N``, where Delta is the sum
    of the last N payloads, and steps along ``(1 - c N + c) beta m + g / N``. The server's optimizer is plain SGD.
    """

    elementwise = True

    def __init__(self, count: int, momentum: float = 0.9, spread: float = 0.0):
        super().__init__(1)
        if not (count >= 1 and 0 <= momentum < 1 and 0 <= spread * count <= 1):
            raise ValueError(
                f"count={count}, momentum={momentum}, spread={spread}: "
                "count is 1 or more, momentum from 0 to below 1, spread from 0 to 1/count"
            )
        self.period, self.beta, self.spread = count, momentum, spread
        self.arrived = 0  # since the momentum last moved
        self.total: torch.Tensor | float = 0.0  # of what arrived, [P]
        self.momentum: torch.Tensor | float = 0.0  # m [P]

    def direction(self) -> torch.Tensor:
        payload = super().direction()
        self.arrived, self.total, share = self.arrived + 1, self.total + payload, self.spread
        if self.arrived == self.period:
            self.momentum = self.beta * self.momentum + self.total / self.period
            self.arrived, self.total, share = 0, 0.0, 1 - self.spread * (self.period - 1)
        return payload / self.period + share * self.beta * self.momentum

    def state_dict(self) -> dict:
        own = {"arrived": self.arrived, "total": self.total, "momentum": self.momentum}
        return super().state_dict() | own

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.arrived, self.total, self.momentum = state["arrived"], state["total"], state["momentum"]
