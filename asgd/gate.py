"""The gate: which updates are taken in, and how much each counts."""

from math import isfinite

from torch import Tensor

from asgd.ledger import ProtocolError
from asgd.messages import Update


class Gate:
    """``weight(staleness)`` is a number, 0 discards. ``like`` are vectors as updates must have them.

    ``nonfinite``: a loss or payload that is not finite is never taken in. ``stop`` ends the run as ``diverged``;
    ``skip`` counts it and goes on, unless ``MAX_SKIPPED`` come in a row.
    """

    MAX_SKIPPED = 100

    def __init__(self, weight, nonfinite: str, **like):
        if nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite={nonfinite}: stop or skip")
        self.weight, self.tolerated = weight, 0 if nonfinite == "stop" else self.MAX_SKIPPED - 1
        self.like = [(name, tensor.numel(), tensor.dtype) for name, tensor in like.items()]
        self.size = sum(tensor.numel() for tensor in like.values())  # 0: there is nothing to look at
        self.nonfinite_in_a_row = 0

    def judge(self, update: Update, staleness: int) -> tuple[str, float]:
        """(applied | dropped | nonfinite, weight). What is dropped is not looked at. ProtocolError for a shape."""
        weight = self.weight(staleness)
        if not weight:
            return "dropped", 0.0
        if self.size:
            self._check(update)
        if not self.size or (is_finite(update) if update.finite is None else update.finite):
            self.nonfinite_in_a_row = 0
            return "applied", weight
        self.nonfinite_in_a_row += 1
        return "nonfinite", 0.0

    def looked_at(self, update: Update) -> Update:
        """The update, with what a pass over its payload shows; no state is needed for that."""
        if not self.size or not isinstance(update.payload, Tensor):  # encoded
            return update
        return update._replace(finite=is_finite(update))

    @property
    def diverged(self) -> bool:
        return self.nonfinite_in_a_row > self.tolerated

    def _check(self, update: Update) -> None:
        for name, size, dtype in self.like:
            given = getattr(update, name)
            if given.numel() != size or given.dim() != 1 or given.dtype != dtype:
                raise ProtocolError(
                    f"worker {update.worker}: {name} of {given.numel()} numbers, this model has {size}: "
                    f"{given.dtype} {list(given.shape)}, must be {dtype} {[size]}"
                )


def is_finite(update: Update) -> bool:
    """Whether loss and payload are finite. The sum is one pass; only where it is not finite a second one decides."""
    if update.loss is not None and not isfinite(update.loss):
        return False
    payload = update.payload
    return not payload.numel() or isfinite(payload.sum().item()) or bool(payload.isfinite().all())


def measured(update: Update, fate: str) -> tuple:
    """(applied, loss, accuracy, samples) of an update; what was not looked at has no loss on record."""
    loss, correct, samples = update[6:9]
    if fate not in ("applied", "nonfinite"):
        return 0, None, None, samples
    return 1 if fate == "applied" else 0, loss, None if correct is None else correct / samples, samples
