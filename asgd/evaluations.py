"""Evaluations: snapshots are judged elsewhere, one after another, while training goes on."""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from asgd.messages import Model
from asgd.records import EVALUATION, Table

log = logging.getLogger(__name__)


def _row(now: float, model: Model, samples: int, judged: tuple) -> tuple:
    """A row of ``EVALUATION``."""
    loss, accuracy, _, top_k_accuracy = judged
    return now, model.version, model.version, samples, loss, accuracy, top_k_accuracy


def _record(evaluations: "Evaluations | Inline", row: tuple) -> None:
    evaluations.table.row(*row)
    for tell in evaluations.told:
        tell(row)


class Evaluations:
    """``evaluate(model)`` returns (loss, accuracy, samples, top-k accuracy); it is called in a thread of its own.

    At most ``PENDING`` snapshots wait for it. One more replaces the oldest, which is said in the log, so that a slow
    evaluation holds up neither a reply nor the memory.
    """

    PENDING = 8

    def __init__(self, folder: Path, evaluate: Callable):
        self.table = Table(folder / "evaluation.csv", EVALUATION)
        self.evaluate, self.last_version = evaluate, -1
        self.told: list[Callable] = []  # who is given each row as well
        self.pending: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._run, name="evaluations", daemon=True)
        self.thread.start()

    def submit(self, model: Model, samples: int, now: float) -> None:
        """Ask for the evaluation of a snapshot, once per version."""
        if model.version == self.last_version:
            return
        self.last_version = model.version
        if self.pending.qsize() >= self.PENDING:
            self._leave_out()
        self.pending.put((model, samples, now))

    def _leave_out(self) -> None:
        with suppress(queue.Empty):
            late, *_ = self.pending.get_nowait()
            log.warning("version %d is not evaluated: the evaluator is %d behind", late.version, self.PENDING)

    def _run(self) -> None:
        while (job := self.pending.get()) is not None:
            model, samples, now = job
            try:
                judged = self.evaluate(model)
            except Exception as error:
                log.error("the evaluation of version %d failed: %s", model.version, error)
                continue
            _record(self, _row(now, model, samples, judged))

    def abandon(self) -> None:
        """Leave out all that is still waiting."""
        while not self.pending.empty():
            self._leave_out()

    def close(self, seconds: float | None = None) -> None:
        """Wait until all that was asked for is done, at most so many ``seconds``; None sets no limit."""
        self.pending.put(None)
        self.thread.join(seconds)


class Inline:
    """As ``Evaluations``, but each snapshot is judged while the run stands still: in virtual time nobody waits."""

    def __init__(self, folder: Path, evaluate: Callable):
        self.table = Table(folder / "evaluation.csv", EVALUATION)
        self.evaluate, self.last_version = evaluate, -1
        self.told: list[Callable] = []

    def submit(self, model: Model, samples: int, now: float) -> None:
        """Evaluate a snapshot, once per version."""
        if model.version != self.last_version:
            self.last_version = model.version
            _record(self, _row(now, model, samples, self.evaluate(model)))

    def abandon(self) -> None:
        """Nothing is ever waiting."""

    def close(self, seconds: float | None = None) -> None:
        self.table.close()
