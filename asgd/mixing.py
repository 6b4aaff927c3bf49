"""Corrections for methods in which the server mixes whole models instead of stepping along differences."""

import torch

from asgd.messages import Update


class Mix:
    """``x <- (1 - r) x + r result`` for a worker's result and the step's rate times weight r = alpha s(staleness).

    The payload is the view minus the result, so x minus the result is ``(x - view) + payload``; plain SGD does the
    rest. FedAsync: Xie, Koyejo, Gupta 2019, arXiv:1903.03934, Algorithm 1.
    """

    elementwise = True

    def __call__(self, update: Update, view: torch.Tensor, params: torch.Tensor, version: int) -> torch.Tensor:
        """[P] from the payload, the ``view`` and the server's ``params``, [P] each."""
        return (params - view).add_(update.payload)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """There is none."""


class Attract(Mix):
    """``x <- x + alpha (payload - x)`` for a payload that is a worker's replica; plain SGD of rate 1 does the rest.

    ``beta`` and ``workers``: see ``moving_rate``. EASGD: Zhang, Choromanska, LeCun 2015, Algorithm 1.
    """

    elementwise = True

    def __init__(self, beta: float, workers: int):
        self.alpha = moving_rate(beta, workers)

    def __call__(self, update: Update, view: torch.Tensor, params: torch.Tensor, version: int) -> torch.Tensor:
        return (params - update.payload).mul_(self.alpha)


def moving_rate(beta: float, workers: int) -> float:
    """alpha = beta / workers of elastic averaging (Zhang, Choromanska, LeCun, NeurIPS 2015, arXiv:1412.6651)."""
    if not 0 <= beta < workers:
        raise ValueError(f"beta={beta}: from 0 to below the number of workers = {workers}")
    return beta / workers
