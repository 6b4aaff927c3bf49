"""A task: a module and its loss, with parameters and gradients as two flat vectors, buffers as a third."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from asgd.compute import PLAIN, Compute
from asgd.data.batch import Batch
from asgd.flat import Flat
from asgd.parameters import Blocks
from asgd.seeds import torch_seed
from asgd.staging import Staging, pinned

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> scalar mean over the batch


class Gradient(NamedTuple):
    """Of the loss of one batch. ``payload`` [P], on the CPU unless it is to ``stay`` on the device, belongs to the
    receiver: nobody writes it again.
    """

    payload: Tensor
    loss: float
    correct: int | None  # right answers; None where targets are floating
    samples: int


class Work(NamedTuple):
    """One gradient to compute, and all that decides it: parameters [P], buffers [B], the batch, the random seed."""

    params: Tensor
    buffers: Tensor
    batch: Batch
    seed: int


class Evaluation(NamedTuple):
    """Means over samples; ``accuracy`` in [0, 1] is None where targets are floating.

    ``top_k_accuracy`` in [0, 1] counts targets among the k largest outputs; None where nobody asked for it.
    """

    loss: float
    accuracy: float | None
    samples: int
    top_k_accuracy: float | None = None


class Task:
    """A module and its loss on a device, with the module's state as flat vectors.

    ``params`` [P] lies on the task's device. The module's parameters are views of it: writing to it changes the module;
    only ``solve`` may leave them in the memory of what it was given, until the next ``load``. Parameters keep the order
    of ``module.parameters()``, buffers that of ``module.named_buffers()``. Only buffers that ``state_dict`` has count.
    Frozen parameters (``requires_grad=False``) are part of the vector, with gradient zero; an optimizer's weight decay
    would still move them. The module is changed in place and belongs to the task. ValueError when the
    parameters are none, all frozen, or of more than one dtype.
    """

    def __init__(self, module: nn.Module, loss: Loss, device: str | torch.device = "cpu", compute: Compute = PLAIN):
        self.module, self.loss, self.device = module.to(device).train(), plain(loss), torch.device(device)
        self.compute = compute
        self._flat = Flat(list(module.parameters()))
        self._buffers = [buffer for name, buffer in module.named_buffers() if name in module.state_dict(keep_vars=True)]
        self.params, self.shapes = self._flat.vector, self._flat.shapes
        self._writes: bool | None = None  # whether the module changes parameters itself, as its first gradient shows
        self.outbox: Tensor | None = None  # [P], where gradients are put; whoever gives it says when it is free again
        self.staging = Staging(self.device) if self.device.type == "cuda" else None
        self._blocks = Blocks(self.allocate)  # where they are put without one

    @property
    def buffers(self) -> Tensor:
        """[B], a fresh copy of all buffers on the CPU, float32 or float64 if the parameters are; empty when none.

        Integers, such as ``num_batches_tracked``, are exact up to 2^24 in float32.
        """
        dtype = torch.promote_types(self.params.dtype, torch.float32)
        pieces = [buffer.detach().reshape(-1).to(dtype) for buffer in self._buffers]
        return torch.cat(pieces).cpu() if pieces else torch.empty(0, dtype=dtype)

    def load(self, params: Tensor, buffers: Tensor) -> None:
        """Copy ``params`` [P] and ``buffers`` [B] into the module. ValueError when a size differs, before any copy."""
        self._load_buffers(params, buffers)
        self._flat.load(params)

    def _load_buffers(self, params: Tensor, buffers: Tensor) -> None:
        sizes = [buffer.numel() for buffer in self._buffers]
        _same_size("parameters", self.params.numel(), params.numel())
        _same_size("values in its buffers", sum(sizes), buffers.numel())
        for buffer, piece in zip(self._buffers, buffers.to(self.device).split(sizes), strict=True):
            buffer.copy_((piece if buffer.is_floating_point() else piece.round()).view_as(buffer))

    def reseed(self, seed: int) -> None:
        """Start the generators that random layers such as dropout draw from, on the CPU and the task's device."""
        torch.default_generator.manual_seed(seed)  # a hundred times faster than torch.manual_seed
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def solve(self, work: Work) -> tuple[Gradient, Tensor]:
        """The gradient and the buffers [B] after it; nothing but ``work`` decides them. ValueError as ``load``."""
        self.reseed(work.seed)
        if self._writes is False and self._has_large(work.params):
            self._load_buffers(work.params, work.buffers)
            self._flat.lie_in(work.params)
            return self.gradient(work.batch), self.buffers
        self.load(work.params, work.buffers)
        gradient = self.gradient(work.batch)
        if self._writes is None and self._has_large(work.params):
            self._writes = not torch.equal(self.params, work.params)
        return gradient, self.buffers

    def _has_large(self, params: Tensor) -> bool:
        """Whether computing on ``params`` where they are is possible, and faster than on a copy."""
        here = params.device == self.params.device and params.dtype == self.params.dtype
        return here and params.nbytes >= Flat.LARGE

    def gradient(self, batch: Batch, stay: bool = False) -> Gradient:
        """The gradient of the batch's loss at the present parameters, in train mode; updates BatchNorm statistics."""
        self._switch(training=True)
        loss, correct, samples = self._compare(*self._forward(batch))
        payload = self._flat.gradient(loss) if stay and self.staging else self._backward(loss)
        return Gradient(payload, loss.item(), None if correct is None else int(correct), samples)

    def _backward(self, loss: Tensor) -> Tensor:
        """[P] on the CPU, in the outbox if there is one."""
        outbox = self._blocks.take(self.params) if self.outbox is None else self.outbox
        if self.staging:
            return self._sent(loss, outbox)
        if self._has_large(outbox):
            return self._flat.large_gradient(loss, outbox)
        return self._flat.gradient(loss, outbox)

    def _sent(self, loss: Tensor, outbox: Tensor) -> Tensor:
        """The gradient, from the device to the ``outbox``: large ones piece by piece, as they are made."""
        if outbox.nbytes >= Flat.LARGE:
            self._flat.large_gradient(loss, outbox, self.staging.send)
        else:
            self.staging.send(outbox, self._flat.gradient(loss))
        self.staging.wait()
        return outbox

    def pin(self, vector: Tensor | None, writable: bool = True) -> Tensor | None:
        """``vector``, if any: memory of this host from or to which will be copied, made ready for the device."""
        if self.staging and vector is not None:
            self.staging.pin(vector, writable)
        return vector

    @property
    def allocate(self) -> Callable[[Tensor], Tensor] | None:
        """What makes memory of this host for such vectors; None for torch's own allocator."""
        return pinned if self.staging else None

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], top_k: int | None = None) -> Evaluation:
        """Loss and accuracy in eval mode, each batch weighted by its samples; with ``top_k`` also that accuracy.

        ValueError when there are no batches.
        """
        self._switch(training=False)
        rows = [self._judge(batch, top_k) for batch in _at_least_one(batches)]
        losses, right, samples, among = zip(*rows, strict=True)
        total = sum(samples)
        loss = sum(loss * count for loss, count in zip(losses, samples, strict=True)) / total
        return Evaluation(loss, _share(right, total), total, _share(among, total))

    def _judge(self, batch: Batch, top_k: int | None) -> tuple[float, int | None, int, int | None]:
        """Loss, right answers, samples, and right answers among the ``top_k`` (None where there are no such)."""
        outputs, targets = self._forward(batch)
        loss, correct, samples = self._compare(outputs, targets)
        among = None if top_k is None else int((outputs.topk(top_k).indices == targets.unsqueeze(-1)).sum())
        return loss.item(), None if correct is None else int(correct), samples, among

    def recompute_buffers(self, batches: Iterable[Batch]) -> None:
        """Estimate BatchNorm's running statistics anew: their plain averages over ``batches``, at these parameters.

        Draws of the module (dropout) do not move torch's generators. ValueError when there are no batches.
        """
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self._switch(training=True)
            inputs = (self.compute.laid_out(self.placed(batch.inputs)) for batch in _at_least_one(batches))
            with self.compute.precision(self.device):
                update_bn(inputs, self.module)

    def _switch(self, training: bool) -> None:
        """Train or eval mode; the walk over all submodules takes as long as a small layer, so only when needed."""
        if self.module.training != training:
            self.module.train(training)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The module's outputs and the targets, on the task's device."""
        targets = self.placed(batch.targets)
        return self.compute.outputs(self.module, self.placed(batch.inputs)), targets

    def _compare(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None, int]:
        """Loss (a scalar), number of right answers (a scalar, or None) and number of samples."""
        correct = None if targets.is_floating_point() else (outputs.argmax(-1) == targets).sum()
        return self.loss(outputs, targets), correct, len(targets)

    def placed(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the task's device, and in the parameters' dtype if it is floating."""
        return tensor.to(self.device, self.params.dtype if tensor.is_floating_point() else tensor.dtype)


def build_task(
    factory: Callable[[], nn.Module],
    loss: Loss,
    seed: int,
    device: str | torch.device = "cpu",
    compute: Compute = PLAIN,
) -> Task:
    """The task of a new module, with equal parameters for equal ``seed`` on every host, whatever was drawn before.

    ``factory`` initialises on the CPU from torch's default generator, which is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, "init"))
        return Task(factory(), loss, device, compute)


def check_outputs(task: Task, shape: Sequence[int], classes: int) -> None:
    """ValueError if the model cannot take inputs [2, *shape], or has fewer outputs than ``classes`` (0: any number).

    One forward pass on zeros, in train mode; parameters, buffers and random generators stay as they are.
    """
    outputs = _outputs_of_zeros(task, shape)
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != (2,):
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"the model returned {found} for 2 samples; it must return one tensor [2, ...]")
    if outputs.shape[-1] < classes:
        raise ValueError(
            f"the model has {outputs.shape[-1]} outputs but the data set has {classes} classes; "
            f"set the model's number of classes to {classes}, or leave it at ${{dataset.classes}}"
        )


@torch.no_grad()
def _outputs_of_zeros(task: Task, shape: Sequence[int]) -> object:
    buffers, zeros = task.buffers, torch.zeros(2, *shape, dtype=task.params.dtype, device=task.device)
    untouched = torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else [])
    try:
        with untouched, task.compute.precision(task.device):
            return task.module.train()(zeros)
    except Exception as error:
        raise ValueError(
            f"the model cannot take the data set's inputs of shape {list(shape)}; choose another one: {error}"
        ) from error
    finally:
        task.load(task.params, buffers)


def plain(factory: Callable) -> Callable:
    """The same function without Hydra's look-up of its target at every call, 0.1 ms; one was made when it was built."""
    return partial(factory.func, *factory.args, **factory.keywords) if isinstance(factory, partial) else factory


def _same_size(what: str, own: int, received: int) -> None:
    if own != received:
        raise ValueError(
            f"this model has {own:,} {what}, the message {received:,}; "
            "every node and every checkpoint must use the same model and dataset options"
        )


def _share(counts: Sequence[int | None], total: int) -> float | None:
    return None if None in counts else sum(counts) / total


def _at_least_one(batches: Iterable[Batch]) -> Iterator[Batch]:
    count = 0
    for count, batch in enumerate(batches, start=1):  # noqa: B007
        yield batch
    if not count:
        raise ValueError("there are no batches; the validation set must have at least one sample")
