"""What becomes of buffers, the running statistics of BatchNorm: a stated choice.

Workers estimate them on their own batches. A server that ignores them evaluates a BatchNorm network with mean 0 and
variance 1, the classic silent failure of parameter servers.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

import torch


class Latest:
    """The buffers of the last applied update."""

    def __init__(self, initial: torch.Tensor):
        self.value = initial  # [B]

    def merge(self, worker: int, buffers: torch.Tensor) -> None:
        self.value = buffers

    def forget(self, worker: int) -> None:
        """The worker has left."""

    @staticmethod
    def prepare(task, batches: Callable[[], Iterator]) -> None:
        """Before an evaluation: nothing to do, the model's buffers are used as they are."""

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


class ServerMean(Latest):
    """The mean over the workers that are there of each one's last buffers."""

    def __init__(self, initial: torch.Tensor):
        super().__init__(initial)
        self.last: dict[int, torch.Tensor] = {}

    def merge(self, worker: int, buffers: torch.Tensor) -> None:
        self.last[worker] = buffers
        self._average()

    def forget(self, worker: int) -> None:
        if self.last.pop(worker, None) is not None and self.last:
            self._average()

    def _average(self) -> None:
        self.value = torch.stack([self.last[worker] for worker in sorted(self.last)]).mean(0)

    def state_dict(self) -> dict:
        return {"value": self.value, "last": dict(self.last)}

    def load_state_dict(self, state: dict) -> None:
        self.value, self.last = state["value"], dict(state["last"])


class Recompute(Latest):
    """Training uses batch statistics only; before each evaluation they are estimated anew on ``BATCHES`` batches."""

    BATCHES = 50

    def merge(self, worker: int, buffers: torch.Tensor) -> None:
        """The server keeps the initial buffers."""

    @staticmethod
    def prepare(task, batches: Callable[[], Iterator]) -> None:
        with closing(batches()) as endless:
            task.recompute_buffers(islice(endless, Recompute.BATCHES))


CHOICES = {"server_mean": ServerMean, "latest": Latest, "recompute": Recompute}


def choose(name: str) -> type[Latest]:
    if name not in CHOICES:
        raise ValueError(f"buffers={name}: one of {', '.join(CHOICES)}")
    return CHOICES[name]
