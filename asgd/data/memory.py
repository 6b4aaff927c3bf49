"""Data sets that fit in memory: epochs are dealt to the workers like cards, or each worker keeps its own samples."""

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch

from asgd.data import options
from asgd.data.batch import Batch, Dataset
from asgd.data.partition import Deal, choose, needs_labels

Arrays = tuple[torch.Tensor, torch.Tensor]  # inputs [n, *shape], targets [n] or [n, d]


class InMemory(Dataset):
    """A data set whose subclass has ``load() -> (training Arrays, validation Arrays)``, called at first use.

    ``partition`` (see ``asgd.data.partition``) says who reads what: with ``iid`` each epoch is one permutation of all
    samples, dealt anew; else a worker permutes its own share in each epoch, and ``Batch.epoch`` counts its passes over
    that. A budget in epochs counts samples, whoever reads them: ``epochs`` times all samples. So it ends when the
    workers have made that many passes on average, and a fast worker has made more over its share than a slow one.
    """

    def __init__(
        self,
        batch_size: int,
        classes: int,
        shape: tuple[int, ...],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        seed: int = 0,
        eval_batch_size: int = 4096,
        partition: str = "iid",
        alpha: float | None = None,
        shards_per_worker: int | None = None,
        top_k: int | None = None,
    ):
        options.at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        options.top_k(top_k, classes)
        options.at_least(0, seed=seed)
        needs_labels(partition, classes)
        self.partition = choose(partition, alpha=alpha, shards_per_worker=shards_per_worker)
        self.batch_size, self.classes, self.shape, self.loss = batch_size, classes, tuple(shape), loss
        self.seed, self.eval_batch_size, self.top_k = seed, eval_batch_size, top_k
        self._deals: dict[int | None, Deal] = {}  # by the number of workers

    def load(self) -> tuple[Arrays, Arrays]:
        """The training and the validation set; equal in every process."""
        raise NotImplementedError

    @cached_property
    def _arrays(self) -> tuple[Arrays, Arrays]:
        return self.load()

    def check(self) -> None:
        """Nothing can be missing: the data are generated or installed with a package."""

    def samples(self) -> int:
        """Training samples in one epoch, over all workers."""
        return len(self._arrays[0][0])

    def batches(self, rank: int, workers: int | None, start: int = 0) -> Iterator[Batch]:
        """Endless batches of worker ``rank``; the last one of an epoch may be smaller. Skipping costs nothing."""
        options.worker(rank, workers)
        (inputs, targets), _ = self._arrays
        deal = self._deal(workers)
        per_epoch = -(-deal.size(rank) // self.batch_size)
        if not per_epoch:
            raise options.no_samples(rank, workers, len(inputs))
        epoch, first = divmod(start, per_epoch)
        while True:
            mine = np.ascontiguousarray(deal.order(epoch, rank))  # strides cost more at each batch than the copy once
            for index in range(first, per_epoch):
                chosen = torch.from_numpy(mine[index * self.batch_size : (index + 1) * self.batch_size])
                yield Batch(inputs.index_select(0, chosen), targets.index_select(0, chosen), epoch, index)
            epoch, first = epoch + 1, 0

    def _deal(self, workers: int | None) -> Deal:
        if workers not in self._deals:
            self._deals[workers] = self.partition.deal(self._arrays[0][1].numpy(), workers, self.seed)
        return self._deals[workers]

    def evaluation(self) -> Iterator[Batch]:
        """The validation set once, in its own order."""
        _, (inputs, targets) = self._arrays
        pairs = zip(inputs.split(self.eval_batch_size), targets.split(self.eval_batch_size), strict=True)
        for index, (some_inputs, some_targets) in enumerate(pairs):
            yield Batch(some_inputs, some_targets, 0, index)
