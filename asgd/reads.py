"""Reads: what a worker is given in place of the newest model."""

from typing import NamedTuple

import torch

from asgd.ledger import Ledger
from asgd.messages import Model


class Copy(NamedTuple):
    """A worker's ``model``, taken in its ``session`` when the slowest worker had completed ``clock`` rounds."""

    session: int
    clock: int
    model: Model


class CachedReads:
    """A worker goes on with its copy of the parameters until that is too old: lazy reads of stale synchronous parallel.

    At clock c the copy holds all updates of all workers stamped c - ``slack`` - 1 or earlier, the worker's own ones up
    to the last, and it may lack any other. Own updates enter it as the movement of the parameters that they caused.
    ``version`` stays that of the copy. A new life of a worker begins with a new copy. Ho et al., NeurIPS 2013.
    """

    elementwise = True  # whether every parameter is treated by itself (``asgd.elementwise``)
    vectors = 1  # [P] for each worker

    def __init__(self, slack: int = 3):
        if slack < 0:
            raise ValueError(f"slack={slack}: rounds that a copy may lag behind, 0 or more")
        self.slack = slack
        self.copies: dict[int, Copy] = {}

    def read(self, worker: int, newest: Model, ledger: Ledger) -> Model:
        entry, copy = ledger[worker], self.copies.get(worker)
        if copy is None or copy.session != entry.session or copy.clock < entry.clock - self.slack:
            copy = self.copies[worker] = Copy(entry.session, ledger.slowest(), newest)
        return copy.model

    def stepped(self, worker: int | None, movement: torch.Tensor) -> None:
        """``worker``'s push has moved the parameters by ``movement`` [P]."""
        if copy := self.copies.get(worker):
            model = copy.model._replace(params=copy.model.params + movement)
            self.copies[worker] = copy._replace(model=model)
