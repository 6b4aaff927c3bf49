"""A mixture of mixtures of Gaussians: classification in which a class is several clusters, and data are plentiful."""

import numpy as np
import torch

from asgd.data import options
from asgd.data.memory import Arrays, InMemory
from asgd.seeds import rng


class Mixture(InMemory):
    """Inputs ``center + N(0, sigma^2)``, float32 [n, dim], around centres drawn uniformly from the unit sphere.

    Each of the ``classes`` is ``clusters`` of these centres, and each cluster has an equal share of the rows, to
    within one. ``samples`` rows to train on, ``held_out`` more to evaluate on, dim = ``shape[0]``. The problem follows
    from ``data_seed``, so runs with other seeds solve the same one.
    Source: Liu et al. 2024, arXiv:2401.09135, the toy problem of Fig. 9.
    """

    def __init__(
        self, *arguments, samples: int = 128_000, held_out: int = 10_000, clusters: int = 8, sigma: float = 0.5,
        data_seed: int = 0, **keywords,
    ):  # fmt: skip
        super().__init__(*arguments, **keywords)
        options.at_least(1, samples=samples, held_out=held_out, classes=self.classes, clusters=clusters)
        options.at_least(0, data_seed=data_seed)
        options.at_least(0.0, sigma=sigma)
        if len(self.shape) != 1 or self.shape[0] < 1:
            raise ValueError(f"dataset.shape={list(self.shape)}: must be [dim] with dim >= 1")
        self._samples, self.held_out = samples, held_out
        self.clusters, self.sigma, self.data_seed = clusters, sigma, data_seed

    def samples(self) -> int:
        """Rows to train on."""
        return self._samples

    def load(self) -> tuple[Arrays, Arrays]:
        """Draw the problem: row i belongs to cluster i modulo their number, and that to its class in the same way."""
        (dim,), rows, number = self.shape, self._samples + self.held_out, self.classes * self.clusters
        centers = rng(self.data_seed, "centers").standard_normal((number, dim))
        centers /= np.linalg.norm(centers, axis=1, keepdims=True)
        inputs = rng(self.data_seed, "rows").standard_normal((rows, dim), np.float32)
        inputs *= self.sigma
        for cluster, center in enumerate(centers.astype(np.float32)):
            inputs[cluster::number] += center  # in place: the defaults take 283 MB
        x, y = torch.from_numpy(inputs), torch.arange(rows) % number % self.classes
        return (x[: self._samples], y[: self._samples]), (x[self._samples :], y[self._samples :])
