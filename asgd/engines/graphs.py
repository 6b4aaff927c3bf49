"""A function of tensors, recorded once and repeated without the Python that led to its operations."""

from collections.abc import Callable

from torch import Tensor


class Recorded:
    """``function(*tensors)``, which must decide nothing by their values; the same operations, so the same bits.

    One graph for each combination of shapes, at most ``most``; what comes beyond, or cannot be recorded, is called as
    it is. Transforms such as ``torch.func.vmap`` take about as long in Python as small tensors in the kernels.
    """

    def __init__(self, function: Callable, most: int):
        self.function, self.most = function, most
        self.graphs: dict[tuple, Callable] = {}

    def __call__(self, *tensors: Tensor):
        kind = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if kind not in self.graphs:
            if len(self.graphs) == self.most:
                return self.function(*tensors)
            self.graphs[kind] = recorded(self.function, tensors)
        return self.graphs[kind](*tensors)


def recorded(function: Callable, tensors: tuple[Tensor, ...]) -> Callable:
    """A graph of the operations on such ``tensors``, 0.1 to 0.3 s; ``function`` itself if there can be none."""
    from torch.fx.experimental.proxy_tensor import make_fx  # takes long to import, and few need it

    try:
        return make_fx(lambda *arguments: function(*arguments))(*tensors).forward
    except Exception:  # the tracer raises many kinds
        return function
