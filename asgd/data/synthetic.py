"""Problems whose solution is known: pure noise for a quadratic model, and linear least squares."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from asgd.data import options
from asgd.data.batch import Batch, Dataset
from asgd.data.memory import Arrays, InMemory
from asgd.data.partition import needs_labels
from asgd.seeds import rng


def mean_output(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of a model that computes its own objective: the mean of ``outputs`` [n]; ``targets`` play no part."""
    return outputs.mean()


class Noise(Dataset):
    """Gradient noise: inputs ~ N(0, sigma^2) [n, dim], targets 0 [n, 1], with dim = ``shape[0]``.

    Endless, so every batch is full; worker ``rank``'s k-th batch is addressed by (seed, rank, k). ``samples`` is the
    nominal length of an epoch over all workers. Evaluation is one batch without noise, the exact objective.
    """

    classes = 0

    def __init__(
        self,
        batch_size: int,
        classes: int,
        shape: tuple[int, ...],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = mean_output,
        seed: int = 0,
        sigma: float = 1.0,
        samples: int = 1000,
        partition: str = "iid",
    ):
        needs_labels(partition, classes)
        options.at_least(1, batch_size=batch_size, samples=samples)
        options.at_least(0, seed=seed)
        options.at_least(0.0, sigma=sigma)
        _check_vector(classes, shape)
        self.batch_size, self.shape, self.loss = batch_size, tuple(shape), loss
        self.seed, self.sigma, self._samples = seed, sigma, samples

    def check(self) -> None:
        """Nothing can be missing."""

    def samples(self) -> int:
        """The nominal number of samples in one epoch, over all workers."""
        return self._samples

    def batches(self, rank: int, workers: int, start: int = 0) -> Iterator[Batch]:
        """Endless full batches of worker ``rank``; skipping costs nothing."""
        options.worker(rank, workers)
        per_epoch = -(-self._samples // (workers * self.batch_size))
        targets = torch.zeros(self.batch_size, 1)
        while True:
            noise = rng(self.seed, "noise", rank, start).standard_normal((self.batch_size, *self.shape), np.float32)
            yield Batch(torch.from_numpy(noise).mul_(self.sigma), targets, *divmod(start, per_epoch))
            start += 1

    def evaluation(self) -> Iterator[Batch]:
        """One batch of one zero input."""
        yield Batch(torch.zeros(1, *self.shape), torch.zeros(1, 1))


class LeastSquares(InMemory):
    """Rows a_i with entries uniform(0, 1) / sqrt(dim), targets a_i . x* + N(0, noise^2), x* ~ N(0, 1) [dim].

    Inputs float32 [n, dim], targets [n, 1], dim = ``shape[0]``. ``samples`` rows to train on, ``held_out`` more to
    evaluate on. The problem follows from ``data_seed``, so runs with other seeds solve the same one.
    Source: Mishchenko, Bach, Even, Woodworth, "Asynchronous SGD beats minibatch SGD under arbitrary delays", 2022.
    """

    def __init__(
        self, *arguments, samples: int = 10_000, held_out: int = 1_000, noise: float = 1e-5, data_seed: int = 0,
        **keywords,
    ):  # fmt: skip
        super().__init__(*arguments, **keywords)
        options.at_least(1, samples=samples, held_out=held_out)
        options.at_least(0.0, noise=noise)
        _check_vector(self.classes, self.shape)
        self._samples, self.held_out, self.noise, self.data_seed = samples, held_out, noise, data_seed

    def samples(self) -> int:
        """Rows to train on."""
        return self._samples

    def load(self) -> tuple[Arrays, Arrays]:
        """Draw the problem in double precision."""
        (dim,), rows = self.shape, self._samples + self.held_out
        inputs = rng(self.data_seed, "rows").uniform(size=(rows, dim)) / np.sqrt(dim)
        solution = rng(self.data_seed, "solution").standard_normal((dim, 1))
        noise = rng(self.data_seed, "target noise").standard_normal((rows, 1)) * self.noise
        x, y = torch.from_numpy(inputs).float(), torch.from_numpy(inputs @ solution + noise).float()
        return (x[: self._samples], y[: self._samples]), (x[self._samples :], y[self._samples :])


def _check_vector(classes: int, shape: tuple[int, ...]) -> None:
    if classes != 0 or len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"dataset.classes={classes}, dataset.shape={list(shape)}: must be 0 and [dim] with dim >= 1")
