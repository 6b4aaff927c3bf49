"""What is exchanged, and where it must lead: the shapes of known models, one constant gradient, SGD with momentum."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4
GRADIENT = 0.5  # every number of every gradient
PIECES = 16  # tensors of a model that is given as a number
TOLERANCE = 1e-3  # relative: single precision, over thousands of steps
sgd = partial(torch.optim.SGD, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


class Load(NamedTuple):
    """A trial's work: the model's ``shapes``, how many ``workers``, ``threads`` of torch in each process."""

    shapes: list[tuple[int, ...]]
    workers: int
    threads: int
    seconds: float

    @property
    def size(self) -> int:
        """Parameters in all, P."""
        return sum(map(prod, self.shapes))


def shapes_of(model: str) -> list[tuple[int, ...]]:
    """Of one of torchvision's classifiers, or of as many parameters as ``model`` says. ValueError for neither."""
    if model.replace("_", "").isdecimal():
        return pieces(int(model))
    from asgd.models._torchvision import torchvision

    if model not in torchvision.models.list_models(torchvision.models):
        raise ValueError(f"model={model}: a number of parameters, or a classifier of torchvision such as resnet50")
    with torch.device("meta"):
        return [tuple(each.shape) for each in torchvision.models.get_model(model).parameters()]


def pieces(parameters: int) -> list[tuple[int, ...]]:
    if parameters < PIECES:
        raise ValueError(f"model={parameters}: at least {PIECES} parameters")
    rest = parameters - (PIECES - 1) * (parameters // PIECES)
    return [(parameters // PIECES,)] * (PIECES - 1) + [(rest,)]


def make(load: Load, value: float) -> list[Tensor]:
    """Tensors of the model's shapes, full of ``value``."""
    return [torch.full(shape, value) for shape in load.shapes]


def expected(steps: int) -> float:
    """Every parameter after so many steps from 0."""
    parameter = velocity = 0.0
    for _ in range(steps):
        velocity = MOMENTUM * velocity + GRADIENT + DECAY * parameter
        parameter -= RATE * velocity
    return parameter


def check(steps: int, parameters: list[Tensor], whose: str) -> None:
    """RuntimeError unless that is where ``steps`` updates lead: none lost, none twice, no mix of versions."""
    wanted, found = expected(steps), bounds(parameters)
    if max(abs(each - wanted) for each in found) > TOLERANCE * abs(wanted):
        raise RuntimeError(f"{whose}: {steps} updates lead to {wanted:g}, but the parameters are {found}")


def bounds(parameters: list[Tensor]) -> tuple[float, float]:
    return min(each.min().item() for each in parameters), max(each.max().item() for each in parameters)


Step = Callable[[bool], bool]  # one exchange; told whether the time is up, it says whether this worker is done
