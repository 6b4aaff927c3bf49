"""The 1,797 handwritten digits that come with scikit-learn: real images, no download."""

import numpy as np
import torch

from asgd.data.memory import Arrays, InMemory
from asgd.seeds import rng


class Digits(InMemory):
    """8x8 grey images with values 0..1, inputs float32 [n, 1, 8, 8], labels 0..9.

    One fifth of each class, chosen by ``split_seed`` (not by the run's seed), is the validation set.
    """

    def __init__(self, *arguments, split_seed: int = 0, **keywords):
        super().__init__(*arguments, **keywords)
        if (self.classes, self.shape) != (10, (1, 8, 8)):
            given = f"dataset.classes={self.classes}, dataset.shape={list(self.shape)}"
            raise ValueError(f"{given}: digits has 10 and [1, 8, 8]")
        self.split_seed = split_seed

    def load(self) -> tuple[Arrays, Arrays]:
        """Read scikit-learn's file and split it, stratified by class."""
        from sklearn.datasets import load_digits  # takes a second, which a process without data need not wait

        digits = load_digits()
        inputs = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
        targets = torch.from_numpy(digits.target).long()
        test = _fifth_of_each_class(digits.target, self.split_seed)
        return (inputs[~test], targets[~test]), (inputs[test], targets[test])


def _fifth_of_each_class(labels: np.ndarray, split_seed: int) -> torch.Tensor:
    """A mask [n] with one fifth (rounded) of the samples of each class."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen = rng(split_seed, "split", int(label)).permutation(members)[: round(len(members) / 5)]
        mask[torch.from_numpy(chosen)] = True
    return mask
