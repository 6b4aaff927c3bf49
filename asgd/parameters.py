"""The server's parameters: one flat vector, the torch optimizer that moves it, and the version that counts steps."""

import sys
from collections import deque
from collections.abc import Callable

import torch

from asgd import kernels
from asgd.messages import Model, a_model
from asgd.on_device import DeviceStepper
from asgd.staging import pinned

CPU = torch.device("cpu")


class Blocks:
    """Memory for the versions to come. A large block is used again when nobody has it: fresh pages cost several steps.

    Whoever is given a block's memory has another tensor than the one kept here, so a storage with no owner but the
    latter is in no message, view or array, and in no call under way. As many are kept as were held at once.
    ``allocate(like)`` makes a block, torch's allocator if there is none.
    """

    LARGE = 1 << 22  # bytes; smaller ones torch's allocator itself uses again

    def __init__(self, allocate: Callable[[torch.Tensor], torch.Tensor] | None = None):
        self.allocate, self.least = allocate or torch.empty_like, 0 if allocate else self.LARGE
        self.blocks: deque[torch.Tensor] = deque()

    def take(self, like: torch.Tensor) -> torch.Tensor:
        """A vector to write to, of any content."""
        if like.nbytes < self.least:
            return self.allocate(like)
        for _ in range(len(self.blocks)):
            self.blocks.rotate(-1)  # the oldest first
            if is_free(self.blocks[-1]):
                return self.blocks[-1].detach()
        self.blocks.append(self.allocate(like))
        return self.blocks[-1].detach()


def owners(block: torch.Tensor) -> tuple[int, int]:
    """How many tensors and others own a block's memory, and how many names Python's object for that memory has."""
    storage = block.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)


ALONE = owners(torch.empty(1))


def is_free(block: torch.Tensor) -> bool:
    """Whether nobody but ``block`` has its memory."""
    return owners(block) == ALONE


class Parameters:
    """``initial`` [P]; ``optimizer(params)`` makes any ``torch.optim.Optimizer``; ``schedule`` scales its rates.

    The optimizer sees a single flat parameter, so methods that need the shapes of layers do not fit here. Each step
    writes elsewhere, so the memory of a version is its snapshot; nobody may write to it.
    """

    def __init__(self, initial: torch.Tensor, optimizer: Callable, schedule):
        self.vector, self.blocks = torch.nn.Parameter(initial.detach().clone()), Blocks()
        self.size = self.vector.numel()
        self.make, self.elsewhere = optimizer, False
        self.optimizer: torch.optim.Optimizer = optimizer([self.vector])
        self.stepper = kernels.Stepper(self.optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = schedule
        self.version, self.samples = 0, 0
        self._snapshot: Model | None = None
        self._ahead: Model | None = None

    def step_on(self, device: torch.device) -> None:
        """Steps are made there from now on; all vectors that others see stay on the host."""
        if device != CPU and self.size:
            before, self.elsewhere = clone(self.optimizer.state_dict()), True
            self.stepper, self.blocks = DeviceStepper(self.vector, self.make, device), Blocks(pinned)
            self.optimizer = self.stepper.optimizer
            self.optimizer.load_state_dict(before)

    def live_in(self, allocate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """This version and those to come lie in memory of ``allocate``."""
        self.blocks = Blocks(lambda like: self.pin(allocate(like)))
        self.vector.data = self.blocks.take(self.vector.data).copy_(self.vector.data)
        self._snapshot = self._ahead = None

    def pin(self, vector: torch.Tensor) -> torch.Tensor:
        """The ``vector`` [P], ready to be stepped along or to more than once, until it is ``unpin``ned."""
        if self.elsewhere:
            self.stepper.staging.pin(vector)
        return vector

    def unpin(self, vector: torch.Tensor) -> None:
        if self.elsewhere:
            self.stepper.staging.unpin(vector)

    def step(self, direction: torch.Tensor, samples: int) -> None:
        """One optimizer step along ``direction`` [P], after which ``samples`` samples in all are in the parameters."""
        if self.size:
            self._move(direction)
        self.version, self.samples = self.version + 1, samples
        self._snapshot = self._ahead = None

    def _move(self, direction: torch.Tensor) -> None:
        factor = self.schedule.factor(self.version, self.samples)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.stepper.into(self.blocks.take(self.vector.data), direction)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.rates[0] * self.schedule.factor(self.version, self.samples)

    def snapshot(self, buffers: torch.Tensor) -> Model:
        """This version, with its ``buffers`` [B], as a message, made once. The next step writes elsewhere."""
        if self._snapshot is None:
            self._snapshot = a_model((self.version, self.vector.data, buffers))
        return self._snapshot

    def ahead(self, buffers: torch.Tensor, direction: torch.Tensor) -> Model:
        """This version, moved by the next learning rate against ``direction`` [P]."""
        if self._ahead is None:
            ahead = torch.add(self.vector.data, direction, alpha=-self.rate, out=self.blocks.take(self.vector.data))
            self._ahead = Model(self.version, ahead, buffers)
        return self._ahead

    def state_dict(self) -> dict:
        return {
            "version": self.version,
            "samples": self.samples,
            "params": self.vector.data,
            "optimizer": clone(self.optimizer.state_dict()),
        }

    def load_state_dict(self, state: dict) -> None:
        self.version, self.samples = state["version"], state["samples"]
        self._snapshot = self._ahead = None
        self.vector.data = state["params"].clone()
        self.optimizer.load_state_dict(clone(state["optimizer"]))  # torch would go on writing to these tensors
        if self.elsewhere:
            self.stepper.restart()


def clone(state):
    """A copy of nested dicts and lists, on the host, in which no tensor is shared with the original."""
    if isinstance(state, torch.Tensor):
        return state.to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: clone(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(clone(value) for value in state)
    return state
