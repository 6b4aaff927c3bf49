"""Several gradients of one task in one call, with the same bits as one by one.

A virtual-time engine holds many jobs at once. Small models spend most of a gradient on starting operations, so many
gradients in one vectorised call (``torch.func.vmap``) take a fraction of the time. Matrix products of a stack may add
up in another order than those of one job, though. Whether they do is decided by the shapes, the number of threads and
the library's kernels, so ``choose`` finds it out, and no choice of its own ever changes a result.
"""

import copy
import difflib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

from asgd.engines.graphs import Recorded
from asgd.task import Gradient, Task, Work

log = logging.getLogger(__name__)

Answer = tuple[Gradient, Tensor]  # the gradient, and the buffers [B] after it

CHOICES = ("auto", "single", "stacked")
MOST = 64  # jobs in one stack: more are not faster, and take more memory
SLOW = 0.05  # seconds; a gradient that takes longer is not made faster by stacking, and no stack may take much more
GAIN = 1.2  # so many times faster a stack has to be
SHAPES = 16  # of batches that are tried; a stream of ever new shapes is computed one by one
TRIED = 64  # works of a shape whose bits are compared: sums of a few numbers in another order seldom differ
FULL = 0.75  # of the largest stack; from here on the last work fills it up, so that one recorded graph serves them all


class Strategy(Protocol):
    """A call with n works holds at most n + ``peak_vectors`` * ``most`` vectors [P] at once, besides the works."""

    peak_vectors: int
    most: int

    def solve(self, works: list[Work]) -> list[Answer]:
        """The answers in the order of ``works``. Each payload owns its memory, and nobody writes it again."""


class Single:
    """One by one."""

    peak_vectors = 1  # the pieces of one gradient, before they are concatenated to the payload
    most = 1

    def __init__(self, task: Task):
        self.task = task

    def solve(self, works: list[Work]) -> list[Answer]:
        return [self.task.solve(work) for work in works]


class Stacked:
    """Works with batches of one shape together, at most ``most`` of them; the last bits may differ from ``Single``.

    Works of one version, which hold the same ``params`` tensor, are one large batch without copies of the parameters.
    Stacks that are nearly full are filled up and repeat a recorded graph (``asgd.engines.graphs``).
    Layers of BatchNorm use the statistics of each work's batch; buffers come back unchanged, so ValueError for a
    module with buffers unless ``ignores_buffers`` says that nobody looks at them, and for other buffers than those.
    """

    # The stacked parameters, the gradients of the pieces, and either their concatenation or what layers reorder.
    # Measured, payloads included: 3.0 for an MLP and 4.1 for a CNN; one less where all works are of one version.
    peak_vectors = 3

    def __init__(self, task: Task, ignores_buffers: bool = False, most: int = MOST):
        self.task, self.most = task, most
        self.module = _without_statistics(task, ignores_buffers)
        named = list(self.module.named_parameters())
        self.pieces = [(name, parameter.shape, parameter.requires_grad) for name, parameter in named]
        self.sizes = [parameter.numel() for _, parameter in named]
        gradient = grad(self._loss, has_aux=True)
        self.of_one_version, self.of_several = vmap(gradient, in_dims=(None, 0, 0)), vmap(gradient)
        self.recorded = {each: Recorded(each, SHAPES) for each in (self.of_one_version, self.of_several)}

    def solve(self, works: list[Work]) -> list[Answer]:
        return _grouped(works, self.most, self.together)

    def together(self, works: list[Work]) -> list[Answer]:
        """The answers to works with batches of one shape, in one stack."""
        payloads, outputs, targets = (each[: len(works)] for each in self._solved(works))
        rows = zip(torch.unbind_copy(payloads.cpu()), *self._measures(outputs, targets), works, strict=True)
        return [(Gradient(*row, targets.shape[1]), work.buffers) for *row, work in rows]

    def _solved(self, works: list[Work]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients [n, P], outputs and targets of the stack, which may have been filled up to ``most``."""
        placed, one_version, full = self.task.placed, _one_version(works), len(works) >= FULL * self.most
        if full:
            works = works + (self.most - len(works)) * works[-1:]
        params = works[0].params if one_version else torch.stack([work.params for work in works])
        inputs = placed(torch.stack([work.batch.inputs for work in works]))
        targets = placed(torch.stack([work.batch.targets for work in works]))
        solve = self.of_one_version if one_version else self.of_several
        solve = self.recorded[solve] if full else solve
        return *solve(placed(params), inputs, targets), targets

    def _loss(self, vector: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and outputs of one batch at ``vector`` [P]."""
        parameters = {
            name: (piece if trained else piece.detach()).view(shape)
            for (name, shape, trained), piece in zip(self.pieces, vector.split(self.sizes), strict=True)
        }
        outputs = self.task.compute.outputs(partial(functional_call, self.module, parameters), inputs)
        return self.task.loss(outputs, targets), outputs

    @torch.no_grad()
    def _measures(self, outputs: Tensor, targets: Tensor) -> tuple[list[float], list[int | None]]:
        """Each job's loss and number of right answers. A mean over a stack would have other last bits."""
        losses = torch.stack([self.task.loss(*pair) for pair in zip(outputs.unbind(), targets.unbind(), strict=True)])
        if targets.is_floating_point():
            return losses.tolist(), [None] * len(losses)
        return losses.tolist(), (outputs.argmax(-1) == targets).flatten(1).sum(1).tolist()


class Exact:
    """Stacks where they have the same bits as ``Single`` and are worthwhile (``least`` jobs or more), else one by one.

    Each shape of batch is tried at its first appearance: the smaller last batch of an epoch may use other kernels.
    """

    peak_vectors = Stacked.peak_vectors

    def __init__(self, stacked: Stacked, least: int = 2):
        self.stacked, self.single, self.least, self.most = stacked, Single(stacked.task), least, stacked.most
        self.differences: dict[tuple, str] = {}  # by the shapes of a batch, and whether all are of one version

    def solve(self, works: list[Work]) -> list[Answer]:
        return _grouped(works, self.most, self._group)

    def _group(self, works: list[Work]) -> list[Answer]:
        worthwhile = len(works) >= self.least and not self.difference(works)
        return self.stacked.together(works) if worthwhile else self.single.solve(works)

    def difference(self, works: list[Work]) -> str:
        """What has other bits in stacks of such works, all of one shape: "gradients", "losses" or "" for nothing."""
        kind = (*_shapes(works[0]), one_version := _one_version(works))
        if kind not in self.differences:
            found = self._differences(works, 1 if one_version else 4) if len(self.differences) < SHAPES else ["untried"]
            self.differences[kind] = next(filter(None, found), "")
        return self.differences[kind]

    def _differences(self, works: list[Work], versions: int) -> Iterator[str]:
        """What differs, trial by trial; each has other parameters."""
        for seed in range(-(-TRIED // self.most)):
            yield self._compared(_trial(works, self.most, versions, seed))

    def _compared(self, works: list[Work]) -> str:
        expected, found = self.single.solve(works), ""
        for count in _counts(len(works)):
            for (own, _), (other, _) in zip(self.stacked.together(works[:count]), expected, strict=False):
                if not torch.equal(own.payload, other.payload):
                    return "gradients"
                found = found if own[1:] == other[1:] else "losses"
        return found


def seconds(strategy: Strategy, works: list[Work]) -> float:
    """Of one gradient: the best of three to five calls, no more than three if they take long."""
    times = []
    while len(times) < 3 or (len(times) < 5 and sum(times) < SLOW):
        start = time.perf_counter()
        strategy.solve(works)
        times.append(time.perf_counter() - start)
    return min(times) / len(works)


def choose(
    name: str, task: Task, works: list[Work], ignores_buffers: bool, measure: Callable[..., float] = seconds
) -> Strategy:
    """The strategy ``name``; ``auto`` takes stacks where they have the same bits and are faster, and logs why.

    ``works``, at least one, are samples: real parameters and batches, as many as will be held at once. ``auto`` takes
    about a second, with a model of tens of milliseconds some more. ``measure(strategy, works)`` gives seconds per
    gradient. The task is left at other parameters.
    ValueError for an unknown name, and where ``stacked`` is not possible.
    """
    if name not in CHOICES:
        close = difflib.get_close_matches(str(name), CHOICES, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"engine.gradients={name}: one of {', '.join(CHOICES)}{hint}")
    if name == "single":
        return Single(task)
    if name == "stacked":
        return _tried(Single(task), works, ignores_buffers)
    strategy, reason = _fastest(Single(task), works, ignores_buffers, measure)
    log.info("gradients: %s", reason)
    return strategy


def _fastest(single: Single, works: list[Work], ignores_buffers: bool, measure: Callable) -> tuple[Strategy, str]:
    """The fastest strategy with the bits of ``single``, and the reason."""
    if (one := measure(single, works[:1])) > SLOW:
        return single, f"one by one ({one * 1e3:.0f} ms each; stacks pay for small ones)"
    try:
        stacked = _tried(single, works, ignores_buffers, most=min(MOST, len(works), max(2, int(SLOW / one))))
    except ValueError as error:
        return single, f"one by one ({error})"
    return _faster(single, stacked, next(_alike(works)), measure)


def _faster(single: Single, stacked: Stacked, works: list[Work], measure: Callable) -> tuple[Strategy, str]:
    trial = _trial(works, stacked.most, versions=4)
    one, each = measure(single, trial), measure(stacked, trial)
    if one < GAIN * each:
        return single, f"one by one ({one * 1e6:.0f} us each, against {each * 1e6:.0f} us in stacks of {len(trial)})"
    exact = Exact(stacked)
    if different := exact.difference(trial):
        remedy = f"engine.gradients=stacked takes them all the same, {each / one:.1f} times the time"
        return single, f"one by one (stacked {different} differ in the last bits; {remedy})"
    exact.difference(_trial(works, stacked.most, versions=1))
    exact.least = next(n for n in _counts(len(trial)) if n == len(trial) or measure(stacked, trial[:n]) < one)
    figures = f"{each * 1e6:.0f} us each against {one * 1e6:.0f} us one by one"
    return exact, f"stacked, {figures} ({len(trial)} at once, equal bits; from {exact.least} on)"


def _tried(single: Single, works: list[Work], ignores_buffers: bool, most: int = MOST) -> Stacked:
    """ValueError with the reason if the module cannot be stacked."""
    try:
        stacked = Stacked(single.task, ignores_buffers, most)
        stacked.together(_trial(next(_alike(works)), 2, versions=2))
        return stacked
    except Exception as error:  # vmap raises many kinds
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"engine.gradients=stacked: not possible with this model: {reason}") from error


def _without_statistics(task: Task, ignores_buffers: bool) -> torch.nn.Module:
    """A copy of the module, in train mode, whose layers of BatchNorm have no running statistics."""
    module = copy.deepcopy(task.module).train()
    if ignores_buffers:
        replace_all_batch_norm_modules_(module)
    if buffers := [name for name, _ in module.named_buffers() if name in module.state_dict(keep_vars=True)]:
        remedy = "" if ignores_buffers else ", which buffers=recompute would not use"
        raise ValueError(f"it has buffers such as {buffers[0]}{remedy}")
    return module


def _grouped(works: list[Work], most: int, solve: Callable[[list[Work]], list[Answer]]) -> list[Answer]:
    """``solve`` for at most ``most`` works of one shape at a time; the answers in the order of ``works``."""
    answers: list = [None] * len(works)
    for places in _places(works).values():
        for start in range(0, len(places), most):
            some = places[start : start + most]
            for place, answer in zip(some, solve([works[place] for place in some]), strict=True):
                answers[place] = answer
    return answers


def _places(works: list[Work]) -> dict[tuple, list[int]]:
    places = {}
    for place, work in enumerate(works):
        places.setdefault(_shapes(work), []).append(place)
    return places


def _alike(works: list[Work]) -> Iterator[list[Work]]:
    """The works with batches of one shape, the most frequent shape first."""
    groups = sorted(_places(works).values(), key=len, reverse=True)
    return ([works[place] for place in places] for places in groups)


def _shapes(work: Work) -> tuple[torch.Size, torch.Size]:
    return work.batch.inputs.shape, work.batch.targets.shape


def _one_version(works: list[Work]) -> bool:
    return all(work.params is works[0].params for work in works)


def _counts(jobs: int) -> list[int]:
    """The sizes of stacks that are tried."""
    return sorted({count for count in (1, 2, 3, 5, jobs // 2, jobs) if 0 < count <= jobs})


def _trial(works: list[Work], count: int, versions: int, seed: int = 0) -> list[Work]:
    """``count`` works like these, at ``versions`` different parameters; draws nothing from torch's own generator."""
    generator, first = torch.Generator().manual_seed(seed), works[0].params
    noise = [torch.randn(len(first), generator=generator).to(first) for _ in range(versions)]
    params = [first + 0.01 * each for each in noise]
    pairs = zip(islice(cycle(works), count), cycle(params), strict=False)
    return [work._replace(params=vector) for work, vector in pairs]
