"""The memory's own limit: update and consistent snapshot, as the server makes them, with nobody to talk to."""

from functools import partial

import torch

from asgd.bench.trial import Meter
from asgd.bench.work import GRADIENT, check, sgd
from asgd.parameters import Parameters
from asgd.schedules import Constant


def run(meter: Meter) -> None:
    size = meter.load.size
    parameters = Parameters(torch.zeros(size), partial(sgd, fused=True), Constant())
    gradient, buffers = torch.full((size,), GRADIENT), torch.empty(0)

    def step(over: bool) -> bool:
        parameters.step(gradient, 0)
        parameters.snapshot(buffers)
        return over

    check(meter.run(step), [parameters.vector.detach()], "floor")
