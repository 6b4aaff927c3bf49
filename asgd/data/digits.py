"""The 1,797 handwritten digits that come with scikit-learn: real images, no download."""

from importlib.util import find_spec
from pathlib import Path

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
        images, labels = _images_and_labels()
        inputs = torch.from_numpy(images / 16).float().unsqueeze(1)
        targets = torch.from_numpy(labels).long()
        test = _fifth_of_each_class(labels, self.split_seed)
        return (inputs[~test], targets[~test]), (inputs[test], targets[test])


def _images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """[n, 8, 8] from 0 to 16 and [n]. Each process reads them, and importing scikit-learn would take it two seconds."""
    file = Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images, digits.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)


def _fifth_of_each_class(labels: np.ndarray, split_seed: int) -> torch.Tensor:
    """A mask [n] with one fifth (rounded) of the samples of each class."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen = rng(split_seed, "split", int(label)).permutation(members)[: round(len(members) / 5)]
        mask[torch.from_numpy(chosen)] = True
    return mask
