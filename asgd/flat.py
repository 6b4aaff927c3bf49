"""A module's parameters and their gradients as flat vectors, in its own memory or in that of whoever gives them."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

Move = Callable[[Tensor, Tensor], object]


class Flat:
    """``vector`` [P], of which the ``parameters`` are views, in their order; frozen ones have gradient zero.

    ValueError when the parameters are none, all frozen, or of more than one dtype.
    """

    LARGE = 1 << 22  # bytes [P] from which it pays to leave vectors where they are

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = _checked(parameters)
        self.trained = [parameter for parameter in parameters if parameter.requires_grad]
        self.vector = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.lie_in(self.vector)
        self._moving, self._to = False, Tensor.copy_
        self._pieces: list[Tensor] = []
        self._missing: set[int] = set()

    @property
    def shapes(self) -> list[torch.Size]:
        return [parameter.shape for parameter in self.parameters]

    def split(self, vector: Tensor) -> list[Tensor]:
        """A vector [P] in pieces of the parameters' shapes."""
        pieces = vector.split([parameter.numel() for parameter in self.parameters])
        return [piece.view(each.shape) for piece, each in zip(pieces, self.parameters, strict=True)]

    def lie_in(self, vector: Tensor) -> None:
        """The parameters are views of ``vector`` [P] from now on, which is not copied."""
        self.home = vector
        for parameter, piece in zip(self.parameters, self.split(vector), strict=True):
            parameter.data = piece

    def load(self, params: Tensor) -> None:
        """Copy ``params`` [P] into the own vector, in which the parameters lie then."""
        if self.home is not self.vector:
            self.lie_in(self.vector)
        self.vector.copy_(params.to(self.vector.device, non_blocking=True))

    def gradient(self, loss: Tensor, outbox: Tensor | None = None) -> Tensor:
        """[P], in ``outbox`` or a fresh vector."""
        gradients = iter(torch.autograd.grad(loss, self.trained, materialize_grads=True))
        pieces = [next(gradients) if each.requires_grad else torch.zeros_like(each) for each in self.parameters]
        return torch.cat([piece.reshape(-1) for piece in pieces], out=outbox)

    def large_gradient(self, loss: Tensor, outbox: Tensor, move: Move = Tensor.copy_) -> Tensor:
        """The same, but each piece is moved when it has been made, while it is in the processor's caches.

        So a backward pass leaves nothing of the model's size behind. ``move(place, values)`` may be done later.
        """
        if not self._moving:
            self._move_gradients()
        self._to, self._pieces, self._missing = move, self.split(outbox), set(range(len(self.parameters)))
        loss.backward()
        for number in self._missing:
            self._pieces[number].zero_()
        return outbox

    def _move_gradients(self) -> None:
        self._moving = True
        for number, parameter in enumerate(self.parameters):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(partial(self._move, number))

    def _move(self, number: int, parameter: nn.Parameter) -> None:
        self._to(self._pieces[number], parameter.grad)
        self._missing.discard(number)
        parameter.grad = None


def _checked(parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(f"none of the module's {len(parameters)} parameter tensors can be trained; unfreeze some")
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) > 1:
        raise ValueError(
            f"parameters of one dtype are needed, this module has {', '.join(sorted(map(str, dtypes)))}; "
            "convert it, e.g. with module.float()"
        )
    return parameters
