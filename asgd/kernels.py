"""One step of a torch optimizer, written to other memory than the parameters': the next snapshot.

``torch.optim`` steps in place, so a server that hands out snapshots would copy the parameters once more, and its step
spends 20 to 60 microseconds in Python. Here torch's own kernels are called without that: for plain SGD one addition,
which reads and writes everything once; for the fused SGD, Adam and AdamW (``fused=True``) a copy and the fused kernel
on it. Where vectors are too large for the caches, and numba is installed, a compiled loop saves the second pass. All
have the bits of ``torch.optim``. Measured in ``experiments/step_speed``.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Tensor, dict, dict], None]  # (following, params, direction, group, state)

LARGE = 1 << 21  # numbers [P] from which a compiled loop is worth its compilation
REGISTER = 64  # bytes; what is left over beside full ones, torch rounds in another way


class Stepper:
    """Steps ``optimizer``, which has one vector [P]; a compiled loop is made now, in seconds, and said in the log."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer, self.one_pass = optimizer, None
        kind, group = type(optimizer), optimizer.param_groups[0]
        large = group["params"][0].numel() >= LARGE
        if large and kind in KERNELS and group["fused"] and group.get("momentum", 1) and not group.get("amsgrad"):
            self.one_pass = compiled(kind, group)

    def into(self, following: Tensor, direction: Tensor) -> None:
        """One step along ``direction`` [P]: the parameters after it are in ``following`` [P], which they now lie in.

        The memory where they lay is not written. State and options are those of the optimizer, at every step.
        """
        group = self.optimizer.param_groups[0]
        params = group["params"][0]
        if kernel := self.kernel(group):
            kernel(following, params.data, direction, group, self.optimizer.state.get(params, {}))
            params.data = following
        else:
            params.data = following.copy_(params.data)
            params.grad = direction
            self.optimizer.step()
            params.grad = None

    def kernel(self, group: dict) -> Kernel | None:
        """What has the bits of ``optimizer.step()``; None where only that will do: other methods, and the first step.

        The state begins in torch's own first step, so it has torch's own form.
        """
        kind = type(self.optimizer)
        if kind not in KERNELS or _wants_more(self.optimizer, group):
            return None
        if kind is torch.optim.SGD and not (group["momentum"] or group["weight_decay"]):
            return plain_sgd
        if kind is torch.optim.SGD and not group["momentum"]:
            return fused_sgd if group["fused"] else None
        begun = group["fused"] and group["params"][0] in self.optimizer.state
        return (self.one_pass or KERNELS[kind]) if begun else None


def _wants_more(optimizer: torch.optim.Optimizer, group: dict) -> bool:
    """Whether somebody listens to steps, or asks for what kernels do not do."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    special = group["differentiable"] or group.get("capturable") or isinstance(group["lr"], Tensor)
    return bool(hooks or special or len(optimizer.param_groups) > 1)


def plain_sgd(following: Tensor, params: Tensor, direction: Tensor, group: dict, state: dict) -> None:
    rate = group["lr"] if group["maximize"] else -group["lr"]
    torch.add(params, direction, alpha=rate, out=following)


def fused_sgd(following: Tensor, params: Tensor, direction: Tensor, group: dict, state: dict) -> None:
    momentum = group["momentum"]
    torch._fused_sgd_(
        [following.copy_(params)], [direction], [state["momentum_buffer"]] if momentum else [], momentum=momentum,
        weight_decay=group["weight_decay"], lr=group["lr"], dampening=group["dampening"], nesterov=group["nesterov"],
        maximize=group["maximize"], is_first_step=False,
    )  # fmt: skip


def fused_adam(following: Tensor, params: Tensor, direction: Tensor, group: dict, state: dict) -> None:
    """Adam, or AdamW with decoupled weight decay."""
    (beta1, beta2), amsgrad = group["betas"], group["amsgrad"]
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    state["step"] += 1
    kernel(
        [following.copy_(params)], [direction], [state["exp_avg"]], [state["exp_avg_sq"]],
        [state["max_exp_avg_sq"]] if amsgrad else [], [state["step"]], amsgrad=amsgrad, beta1=float(beta1),
        beta2=float(beta2), lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
        maximize=group["maximize"],
    )  # fmt: skip


KERNELS: dict[type, Kernel] = {
    torch.optim.SGD: fused_sgd, torch.optim.Adam: fused_adam, torch.optim.AdamW: fused_adam
}  # fmt: skip


def compiled(kind: type, group: dict) -> Kernel | None:
    """One pass over large vectors; None if numba is not installed or has other bits on this processor."""
    try:
        from asgd import one_pass  # numba takes a second to import
    except ImportError:
        log.info("optimizer: two passes over the parameters; one with numba (pip install numba)")
        return None
    loop = one_pass.sgd if kind is torch.optim.SGD else one_pass.adam
    same = same_bits(loop, KERNELS[kind], group)
    log.info("optimizer: %s", "one pass over the parameters" if same else "two passes; a compiled loop has other bits")
    return together(loop, KERNELS[kind]) if same else None


def same_bits(loop: Kernel, fused: Kernel, group: dict) -> bool:
    """Whether a compiled loop does what torch does, with these options; compiles it."""
    size, like = 64 * REGISTER, group["params"][0]
    generator = torch.Generator().manual_seed(0)
    params, direction, *vectors = torch.rand(5, size, generator=generator, dtype=like.dtype).unbind()
    results = []
    for kernel in (fused, together(loop, fused)):
        state = dict(zip(("momentum_buffer", "exp_avg", "exp_avg_sq"), map(torch.clone, vectors), strict=True))
        state |= {"step": torch.tensor(3.0), "max_exp_avg_sq": vectors[0].clone()}
        kernel(following := torch.empty_like(params), params, direction, group, state)
        results.append([following, *state.values()])
    return all(map(torch.equal, *results))


def together(loop: Kernel, fused: Kernel) -> Kernel:
    """The loop for full registers; torch for the few numbers left over, which also counts the step."""

    def kernel(following: Tensor, params: Tensor, direction: Tensor, group: dict, state: dict) -> None:
        full = params.numel() - params.numel() % (REGISTER // params.element_size())
        for some, place in ((fused, slice(full, None)), (loop, slice(full))):
            of_state = {name: each[place] if each.dim() else each for name, each in state.items() if each is not None}
            some(following[place], params[place], direction[place], group, of_state)

    return kernel
