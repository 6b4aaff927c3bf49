"""What one step of the server's optimizer and the snapshot after it cost, all ways in turn.

    python experiments/step_speed/step.py                      # 1 thread
    python experiments/step_speed/step.py --threads 2 --sizes 25.6e6

Processor time per step, and beside it the time of copying such a vector once, the least that a snapshot could cost.
From ``kernels.LARGE`` parameters on ours is a compiled loop if numba is installed.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from asgd import kernels
from asgd.parameters import Parameters
from asgd.schedules import Constant

METHODS = {
    "SGD, momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4),
    "AdamW": partial(torch.optim.AdamW, lr=0.001),
}
NOTHING = torch.empty(0)
ELEMENTS = 4e6  # that a measurement takes through the step, so that small vectors are stepped many times


def optimized(make: Callable, size: int, **how) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    params = torch.nn.Parameter(torch.zeros(size))
    params.grad = torch.randn(size)
    return params, make([params], **how)


def cloned(make: Callable, size: int, **how) -> Callable:
    """torch's step, and a snapshot in fresh memory; the one before is let go, as that of a worker that got a newer."""
    params, optimizer = optimized(make, size, **how)
    held = [None]

    def step() -> None:
        optimizer.step()
        held[0] = params.detach().clone()

    return step


def copied(make: Callable, size: int) -> Callable:
    """torch's fused step, and a copy to memory that is there already."""
    params, optimizer = optimized(make, size, fused=True)
    snapshot = torch.zeros(size)

    def step() -> None:
        optimizer.step()
        snapshot.copy_(params.detach())

    return step


def ours(make: Callable, size: int, large: float = kernels.LARGE) -> Callable:
    kernels.LARGE = large
    own, direction = Parameters(torch.zeros(size), partial(make, fused=True), Constant()), torch.randn(size)
    held = [None]

    def step() -> None:
        own.step(direction, own.samples + 1)
        held[0] = own.snapshot(NOTHING)

    return step


def ways(method: str, size: int) -> Iterator[tuple[str, Callable]]:
    make = METHODS[method]
    source, target = torch.zeros(size), torch.zeros(size)
    yield "copy of one vector", lambda: target.copy_(source)
    yield "torch.optim, loop, clone", cloned(make, size, foreach=False)
    yield "torch.optim, foreach, clone", cloned(make, size, foreach=True)
    yield "torch.optim, fused, clone", cloned(make, size, fused=True)
    yield "torch.optim, fused, copy", copied(make, size)
    yield "ours, without numba", ours(make, size, large=math.inf)
    yield "ours", ours(make, size)


def seconds(step: Callable, times: int) -> float:
    """Of processor time per step."""
    start = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - start) / times


def compare(method: str, size: int, trials: int) -> None:
    steps, times = dict(ways(method, size)), max(1, int(ELEMENTS / size))
    taken = {name: [] for name in steps}
    for step in steps.values():
        seconds(step, 3)
    for _ in range(trials):
        for name, step in steps.items():
            taken[name].append(seconds(step, times))
    floor = taken["copy of one vector"]
    print(f"\n{method}, {size:,} parameters, {torch.get_num_threads()} threads: median (least) of {trials}")
    for name, each in taken.items():
        ratio = statistics.median(own / copy for own, copy in zip(each, floor, strict=True))
        print(f"{name:28s} {statistics.median(each) * 1e6:11.1f} ({min(each) * 1e6:9.1f}) us, {ratio:6.2f} copies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--sizes", type=float, nargs="*", default=[9e3, 1e6, 25.6e6])
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    for size in words.sizes:
        for method in METHODS:
            compare(method, int(size), words.trials)


if __name__ == "__main__":
    main()
