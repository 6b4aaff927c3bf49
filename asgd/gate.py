"""The gate: which updates are taken in, and how much each counts."""

import logging
from collections import Counter
from collections.abc import Set
from math import hypot, inf, isfinite

from torch import Tensor
from torch.linalg import vector_norm

from asgd.ledger import ProtocolError
from asgd.messages import Update

log = logging.getLogger(__name__)

ROW = 1 << 14  # numbers that torch adds up in one thread: so a norm has the same bits with any number of threads


class Gate:
    """``weight(staleness)`` is a number, 0 discards. ``like`` are vectors as updates must have them.

    ``nonfinite``: a loss or payload that is not finite is never taken in. ``stop`` ends the run as ``diverged``;
    ``skip`` counts it and goes on, unless ``MAX_SKIPPED`` come in a row.
    """

    MAX_SKIPPED = 100
    max_norm = inf  # of a payload

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

    def hopeless(self, working: Set[int]) -> bool:
        """Whether the run has to end after one that was not taken in. ``working``: who may still bring another."""
        return self.nonfinite_in_a_row > self.tolerated

    def state_dict(self) -> dict:
        return {"nonfinite_in_a_row": self.nonfinite_in_a_row}

    def load_state_dict(self, state: dict) -> None:
        self.nonfinite_in_a_row = state["nonfinite_in_a_row"]

    def _check(self, update: Update) -> None:
        for name, size, dtype in self.like:
            given = getattr(update, name)
            if given.numel() != size or given.dim() != 1 or given.dtype != dtype:
                raise ProtocolError(
                    f"worker {update.worker}: {name} of {given.numel()} numbers, this model has {size}: "
                    f"{given.dtype} {list(given.shape)}, must be {dtype} {[size]}"
                )


class Guard:
    """What is refused by choice: a payload with an L2 norm beyond ``max_norm``, an update that is more than
    ``max_staleness`` versions old. None: no limit. The payload is what was sent, decoded, whatever that is.
    """

    def __init__(self, max_norm: float | None = None, max_staleness: int | None = None):
        if max_norm is not None and not (is_number(max_norm, int | float) and 0 < max_norm < inf):
            raise ValueError(f"max_norm={max_norm}: a number above 0, or null for no limit")
        if max_staleness is not None and not (is_number(max_staleness, int) and max_staleness >= 0):
            raise ValueError(f"max_staleness={max_staleness}: versions, a whole number from 0 on, or null for no limit")
        self.max_norm = inf if max_norm is None else max_norm
        self.max_staleness = inf if max_staleness is None else max_staleness

    def __bool__(self) -> bool:
        return min(self.max_norm, self.max_staleness) < inf


def is_number(value: object, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


class UpTo:
    """A weight, but 0 for what is staler than ``limit``: so nobody computes what will not be looked at."""

    selective = True

    def __init__(self, weight, limit: float):
        self.weight, self.limit = weight, limit

    def __call__(self, staleness: int) -> float:
        return self.weight(staleness) if staleness <= self.limit else 0.0


class Guarded(Gate):
    """A gate with a ``guard``, which ends no run as long as good updates come, however many bad ones are between them.

    The run is hopeless once ``MAX_SKIPPED`` in a row were refused, one of each worker that computes among them. So one
    bad worker, however fast, stops nobody who goes on without it.
    """

    def __init__(self, guard: Guard, weight, nonfinite: str, **like):
        super().__init__(UpTo(weight, guard.max_staleness) if guard.max_staleness < inf else weight, nonfinite, **like)
        self.max_norm, self.max_staleness = guard.max_norm, guard.max_staleness
        self.in_a_row, self.refused = 0, set()  # since the last that was taken in: how many, and whose
        self.said: Counter[int] = Counter()  # of each worker, in this life of the server

    def judge(self, update: Update, staleness: int) -> tuple[str, float]:
        """Also outdated, which is not looked at, and oversized."""
        if staleness > self.max_staleness:
            return self._refuse(
                "outdated", update, f"{staleness} versions old, guard.max_staleness is {self.max_staleness}"
            )
        update = self.looked_at(update) if update.finite is None else update
        fate, weight = super().judge(update, staleness)
        if fate == "applied" and update.norm is not None and update.norm > self.max_norm:
            return self._refuse(
                "oversized", update, f"a norm of {update.norm:.4g}, guard.max_norm is {self.max_norm:g}"
            )
        if fate == "nonfinite":
            return self._refuse(fate, update, "not finite")
        if fate == "applied":
            self.in_a_row = 0
            self.refused.clear()
        return fate, weight

    def looked_at(self, update: Update) -> Update:
        """Also with its norm. A shape that is wrong waits for ``judge`` to say so."""
        if self.max_norm == inf or not self.size or not isinstance(update.payload, Tensor):
            return super().looked_at(update)
        try:
            self._check(update)
        except ProtocolError:
            return update
        length = norm(update.payload)
        return update._replace(finite=is_finite(update, length), norm=length)

    def hopeless(self, working: Set[int]) -> bool:
        if self.in_a_row < self.MAX_SKIPPED or not working <= self.refused:
            return super().hopeless(working)
        log.error(
            "refused: the last %d updates, from workers %s; no other computes, so none can be taken in any more. "
            "Give guard higher limits, or a smaller learning rate; where one bad worker holds up all, a topology that "
            "does not wait for it", self.in_a_row, sorted(self.refused)
        )  # fmt: skip
        return True

    def _refuse(self, fate: str, update: Update, why: str) -> tuple[str, float]:
        """Says the 1st, 10th, 100th ... of each worker."""
        self.in_a_row += 1
        self.refused.add(update.worker)
        self.said[update.worker] += 1
        if str(count := self.said[update.worker]).strip("0") == "1":
            log.warning("worker %d: update %d refused, %s (%d of it so far)", update.worker, update.round, why, count)
        return fate, 0.0

    def state_dict(self) -> dict:
        return super().state_dict() | {"in_a_row": self.in_a_row, "refused": sorted(self.refused)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.in_a_row, self.refused = state.get("in_a_row", 0), set(state.get("refused", ()))


def norm(payload: Tensor) -> float:
    """The L2 norm of a vector; infinite where one in single precision would be."""
    whole = payload.numel() // ROW * ROW
    rows = vector_norm(payload[:whole].reshape(-1, ROW), dim=1)
    return hypot(*rows.tolist(), vector_norm(payload[whole:]).item())


def is_finite(update: Update, figure: float | None = None) -> bool:
    """Whether loss and payload are finite. ``figure`` is the payload's norm or, if not given, its sum, one pass; only
    where that is not finite a second one decides.
    """
    if update.loss is not None and not isfinite(update.loss):
        return False
    payload = update.payload
    figure = payload.sum().item() if figure is None else figure
    return isfinite(figure) or bool(payload.isfinite().all())


def measured(update: Update, fate: str) -> tuple:
    """(applied, loss, accuracy, samples) of an update; what was not looked at has no loss on record."""
    loss, correct, samples = update[6:9]
    if fate not in ("applied", "nonfinite", "oversized"):
        return 0, None, None, samples
    return 1 if fate == "applied" else 0, loss, None if correct is None else correct / samples, samples
