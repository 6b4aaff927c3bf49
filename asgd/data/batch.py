"""What every data set hands to a worker, and what every data set can do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Batch:
    """One mini-batch: ``inputs`` [n, *shape], ``targets`` [n] (int64 labels) or [n, d] (floats).

    ``epoch`` counts from 0 passes over the whole training set, ``index`` from 0 this reader's batches in the epoch.
    ``skipped`` is the number of broken samples left out since the batch before (``on_error=skip``).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    epoch: int = 0
    index: int = 0
    skipped: int = 0


class Dataset(Protocol):
    """A training and a validation set. Constructors validate values; ``check`` looks at the data itself."""

    classes: int  # labels are 0 .. classes-1; 0 where targets are not labels
    shape: tuple[int, ...]  # of one input
    batch_size: int  # per worker
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (outputs, targets) -> scalar mean over the batch
    ahead: int = 0  # batches that a worker of a real engine reads ahead, in a thread
    top_k: int | None = None  # evaluations also count the samples whose label is among so many highest outputs

    def check(self) -> None:
        """Raise ValueError for what can be known before a run starts: no such file, labels out of range, ..."""

    def samples(self) -> int:
        """Training samples in one epoch, over all workers."""

    def batches(self, rank: int, workers: int | None, start: int = 0) -> Iterator[Batch]:
        """Endless mini-batches of worker ``rank`` (1..workers), after leaving out the first ``start`` ones.

        ``workers=None``: their number is not known, and each reads all samples, in an order of its own.

        A generator: closing it ends every loader process it has started.
        """

    def evaluation(self) -> Iterator[Batch]:
        """One pass over the validation set, without augmentation, always in the same order."""

    assignment: str = "static"  # leased: the server says what each worker reads (``asgd.data.leases``)

    def leases(self, workers: int, least: int):
        """The server's book of what each worker is to read, ``least`` batches or more, where that is leased."""

    def leased(self, ahead: int = 0) -> Iterator[Batch]:
        """A worker's batches of what ``extend(leases)`` tells it to read, so many read ahead."""
