"""Steps of SGD with momentum, Adam and AdamW as compiled loops that read and write every number once.

They do what torch's fused kernels do with a full vector register, in that order and with the same roundings: ``fma`` is
one rounding for a product and a sum. Needs numba; whoever imports this compares the bits before relying on them.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numba
import torch
from numba.extending import intrinsic
from torch import Tensor

PART = 1 << 20  # numbers that are worth another thread
REGISTER = 16  # numbers, at which parts end


@intrinsic
def fma(context, a, b, c):
    return a(a, b, c), lambda context, builder, signature, values: builder.fma(*values)


@numba.njit(nogil=True, error_model="numpy")
def sgd_loop(params, gradient, velocity, following, rate, momentum, new, decay, sign, nesterov):
    for i in range(params.size):
        slope = fma(params[i], decay, sign * gradient[i])
        velocity[i] = fma(slope, new, velocity[i] * momentum)
        along = fma(velocity[i], momentum, slope) if nesterov else velocity[i]
        following[i] = fma(along, -rate, params[i])


@numba.njit(nogil=True, error_model="numpy")
def adam_loop(params, gradient, mean, square, following, rate, lerp, keep, new, root, eps, decay, shrink, sign):
    for i in range(params.size):
        slope = fma(params[i], decay, sign * gradient[i])
        mean[i] = fma(lerp, slope - mean[i], mean[i])
        square[i] = fma(new * slope, slope, square[i] * keep)
        following[i] = params[i] * shrink - rate * mean[i] / (math.sqrt(square[i]) / root + eps)


def sgd(following: Tensor, params: Tensor, direction: Tensor, group: dict, state: dict) -> None:
    momentum, new, decay = group["momentum"], 1 - group["dampening"], group["weight_decay"]
    vectors = params, direction, state["momentum_buffer"], following
    over_parts(sgd_loop, vectors, (group["lr"], momentum, new, decay, sign(group)), group["nesterov"])


def adam(following: Tensor, params: Tensor, direction: Tensor, group: dict, state: dict) -> None:
    """The step that ``state["step"]`` counts already."""
    (beta1, beta2), step, decay, rate = group["betas"], state["step"].item(), group["weight_decay"], group["lr"]
    decoupled = group["decoupled_weight_decay"]
    coupled, shrink = (0.0, 1 - rate * decay) if decoupled else (decay, 1.0)
    vectors = params, direction, state["exp_avg"], state["exp_avg_sq"], following
    rate, root = rate / (1 - beta1**step), math.sqrt(1 - beta2**step)
    scalars = rate, 1 - beta1, beta2, 1 - beta2, root, group["eps"], coupled, shrink, sign(group)
    over_parts(adam_loop, vectors, scalars)


def sign(group: dict) -> float:
    return -1.0 if group["maximize"] else 1.0


def over_parts(loop, vectors: tuple[Tensor, ...], scalars: tuple[float, ...], *flags: bool) -> None:
    """The loop, at most as many parts of the vectors at a time as torch has threads; the scalars in their precision."""
    arrays = [vector.numpy() for vector in vectors]
    size, rest = arrays[0].size, (*map(arrays[0].dtype.type, scalars), *flags)
    parts = max(1, min(torch.get_num_threads(), size // PART))
    if parts == 1:
        loop(*arrays, *rest)
        return
    ends = [size * part // parts // REGISTER * REGISTER for part in range(parts)] + [size]
    list(threads(parts).map(lambda ends: loop(*(array[slice(*ends)] for array in arrays), *rest), pairwise(ends)))


@cache
def threads(count: int) -> ThreadPoolExecutor:
    """They stay, to serve a part of each step."""
    return ThreadPoolExecutor(count, thread_name_prefix="part")
