"""Corrections: a payload changed by what has happened to the parameters since its worker was given a model.

``correction(update, view, params, version)`` is called once for each update that is taken in: ``view`` [P] is what the
worker was sent, ``params`` [P] what the server has now, at ``version``. None of them is written to or kept.
"""

import torch

from asgd.messages import Update


class DelayCompensation:
    """``g + c (x - view)`` with ``c = strength * g * g`` for the diagonal of the Hessian: DC-ASGD-c.

    Zheng et al., ICML 2017, arXiv:1609.08326. A fresh gradient, and any with ``strength=0``, stays as it is.
    """

    elementwise = True  # whether every parameter is treated by itself (``asgd.elementwise``)

    def __init__(self, strength: float):
        if not strength >= 0:
            raise ValueError(f"strength={strength}: of the compensation, 0 or more")
        self.strength = strength

    def __call__(self, update: Update, view: torch.Tensor, params: torch.Tensor, version: int) -> torch.Tensor:
        return torch.addcmul(update.payload, self.curvature(update), params - view)

    def curvature(self, update: Update) -> torch.Tensor:
        """[P], what stands for the diagonal of the Hessian."""
        return self.strength * update.payload.square()

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class AdaptiveDelayCompensation(DelayCompensation):
    """DC-ASGD-a: ``c = strength * g * g / sqrt(m + eps)``, where ``m <- decay m + (1 - decay) g * g`` for each worker.

    Zheng et al., ICML 2017, arXiv:1609.08326. With ``eps=0`` no entry of a worker's first gradient may be 0.
    """

    elementwise = True
    vectors = 1  # [P] for each worker

    def __init__(self, strength: float, decay: float, eps: float):
        super().__init__(strength)
        _check_decay(decay)
        if not eps >= 0:
            raise ValueError(f"eps={eps}: what is added to the mean square, 0 or more")
        self.decay, self.eps = decay, eps
        self.squares: dict[int, torch.Tensor] = {}  # worker: m [P], replaced and never written

    def curvature(self, update: Update) -> torch.Tensor:
        square = update.payload.square()
        mean = self.squares.get(update.worker, torch.zeros_like(square)).lerp(square, 1 - self.decay)
        self.squares[update.worker] = mean
        return square.mul_(self.strength).div_((mean + self.eps).sqrt_())

    def state_dict(self) -> dict:
        return {"squares": dict(self.squares)}

    def load_state_dict(self, state: dict) -> None:
        self.squares = dict(state["squares"])


class GapAware:
    """``g / (1 + |x - view| / C)``, coordinate by coordinate, where C is how far one step of the server goes.

    Barkai, Hakimi, Schuster, ICLR 2020, arXiv:1909.10802. Our reading of C [P]: the root of the running mean of the
    squared steps that the parameters have made, with the weights ``decay``^age, which sum to 1. Before the first step
    there is no gap, and g stays as it is.
    """

    elementwise = True

    def __init__(self, decay: float):
        _check_decay(decay)
        self.decay = decay
        self.params, self.version = None, None  # [P] at the last version seen
        self.squares, self.steps = 0.0, 0  # sum of (1 - decay) decay^age step^2 [P], replaced and never written

    def __call__(self, update: Update, view: torch.Tensor, params: torch.Tensor, version: int) -> torch.Tensor:
        if version != self.version:
            self._measure(params, version)
        if not self.steps:
            return update.payload
        step = (self.squares / (1 - self.decay**self.steps)).sqrt_()
        return update.payload / (params - view).abs_().div_(step.clamp_min_(torch.finfo(step.dtype).tiny)).add_(1)

    def _measure(self, params: torch.Tensor, version: int) -> None:
        """The step that has led to ``version``."""
        if self.params is not None:
            self.squares = self.decay * self.squares + (1 - self.decay) * (params - self.params).square_()
            self.steps += 1
        self.params, self.version = params.clone(), version

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("params", "version", "squares", "steps")}

    def load_state_dict(self, state: dict) -> None:
        self.params, self.version, self.squares, self.steps = (
            state[name] for name in ("params", "version", "squares", "steps")
        )


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: of the running mean, from 0 to below 1")
