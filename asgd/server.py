"""The parameter server: a function from arrivals to replies.

An arrival goes in (``join``, ``push``, ``leave``, ``tick``), and the replies that are now due come out. Asynchrony is
nothing but the choice of who gets a reply when: the rule decides what an update does to the parameters, the policy
which of the waiting workers go on. There is no clock, thread or socket in here; an engine calls and says what time it
is. So the parameters depend only on the configuration, the seed and the order of arrival.
"""

from collections import Counter
from dataclasses import replace
from math import isfinite

from asgd.budget import Budget
from asgd.ledger import Ledger, ProtocolError
from asgd.messages import Event, Model, Reply, Update
from asgd.parameters import Parameters


class Deadlock(RuntimeError):
    """Every active worker waits and the policy releases none."""


class Server:
    """``workers`` have to join before anybody gets a model. ``buffers`` merges running statistics (``asgd.buffers``).

    ``nonfinite``: a loss or update that is not finite is never applied. ``stop`` ends the run as ``diverged``; ``skip``
    counts it and goes on, unless ``MAX_SKIPPED`` come in a row. Observers get ``event(Event)`` for every arrival and
    ``version(server, now)`` after every step.
    """

    MAX_SKIPPED = 100

    def __init__(
        self, parameters: Parameters, buffers, rule, weight, policy, budget: Budget, workers: int, nonfinite="stop"
    ):
        if nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite={nonfinite}: stop or skip")
        self.parameters, self.buffers, self.rule, self.weight = parameters, buffers, rule, weight
        self.policy, self.budget, self.workers = policy, budget, workers
        self.tolerated = 0 if nonfinite == "stop" else self.MAX_SKIPPED - 1
        self.published = buffers.value  # the buffers that belong to this version, [B]
        self.ledger = Ledger()
        self.observers: list = []
        self.counts = Counter(applied=0, dropped=0, duplicate=0, nonfinite=0, late=0)
        self.samples = 0  # of the applied updates
        self.missing: set[int] = set()  # workers that left before the start
        self.nonfinite_in_a_row = 0
        self.begin: float | None = None  # when the first model was given out
        self.seconds = 0.0  # used before a resume
        self.ended: str | None = None  # budget | diverged | interrupted | error

    # The entrances

    def join(self, worker: int, session: int, now: float) -> list[Reply]:
        """A worker asks for its first model. A new session replaces the worker's old one."""
        entry, due = self.ledger.get(worker), []
        if entry and entry.active:
            if entry.session == session:
                return [entry.reply] if entry.reply else []
            due = self.leave(worker, now)
        before = self.version
        self.missing.discard(worker)
        self.ledger.join(worker, session, clock=self.ledger.slowest() if self.started else 0)
        self._advance(now)
        return due + self._finish(Event(now, "join", worker, round=self.ledger[worker].round), before)

    def push(self, update: Update, now: float) -> list[Reply]:
        """A worker brings an update and asks for the next model. An update that comes again changes nothing."""
        if self.ledger.is_duplicate(update):
            self.counts["duplicate"] += 1
            reply = self.ledger[update.worker].reply
            return [reply] if reply else []
        self._check(update)
        before = self.version
        self._end_if_spent(now)
        applied = self._accept(update)
        self.ledger.received(update.worker)
        self._step_if_ready()
        self._end_if_spent(now)
        return self._finish(self._row(update, now, before - update.version, applied), before)

    def leave(self, worker: int, now: float) -> list[Reply]:
        """A worker has gone, which may complete a barrier or unblock others. Leaving twice is leaving once."""
        entry, before = self.ledger.get(worker), self.version
        here = entry is not None and entry.active
        if not here and (self.started or worker in self.missing):
            return self._release()
        if not self.started:
            self.missing.add(worker)
        if here:
            self.ledger.leave(worker)
        self.buffers.forget(worker)
        self._advance(now)
        return self._finish(Event(now, "leave", worker, round=entry.round if entry else None), before)

    def tick(self, now: float) -> list[Reply]:
        """Time has passed: the budget of seconds may be spent."""
        self._end_if_spent(now)
        return self._release()

    def end(self, reason: str) -> list[Reply]:
        """No update counts from now on, and everybody who asks is told to stop."""
        self.ended = self.ended or reason
        return self._release()

    # What happens inside

    @property
    def version(self) -> int:
        return self.parameters.version

    @property
    def started(self) -> bool:
        return self.begin is not None

    def snapshot(self) -> Model:
        return self.parameters.snapshot(self.published)

    def training_seconds(self, now: float) -> float:
        """Seconds since the first model was given out, those before a resume included."""
        return self.seconds + (now - self.begin if self.started else 0.0)

    def _start_if_complete(self, now: float) -> None:
        active = self.ledger.active()
        if not self.started and active and len(active | self.missing) >= self.workers:
            self.begin = now

    def _advance(self, now: float) -> None:
        """Start, end and step, where who has come or gone is what that waited for."""
        self._start_if_complete(now)
        self._end_if_spent(now)
        self._step_if_ready()
        self._end_if_spent(now)

    def _end_if_spent(self, now: float) -> None:
        if self.started and self.budget.spent(self.version, self.samples, self.training_seconds(now)):
            self.ended = self.ended or "budget"

    def _check(self, update: Update) -> None:
        if self.ledger[update.worker].waiting:
            raise ProtocolError(f"worker {update.worker}: round {update.round} came before it was given a model")
        for name, own in (("payload", self.parameters.vector), ("buffers", self.buffers.value)):
            given = getattr(update, name)
            if given.shape != own.shape or given.dtype != own.dtype:
                raise ProtocolError(
                    f"worker {update.worker}: {name} of {given.numel()} numbers, this model has {own.numel()}: "
                    f"{given.dtype} {list(given.shape)}, must be {own.dtype} {list(own.shape)}"
                )
        if not 0 <= update.version <= self.version:
            raise ProtocolError(f"worker {update.worker}: version {update.version} is not in 0..{self.version}")

    def _accept(self, update: Update) -> bool:
        """Give the update to the rule, unless the run is over or the update is not finite or too stale."""
        fate, weight = self._judge(update)
        self.counts[fate] += 1
        if fate != "applied":
            return False
        self.rule.add(update, weight)
        self.buffers.merge(update.worker, update.buffers)
        self.ledger[update.worker].contributed = self.version
        self.samples += update.samples
        return True

    def _judge(self, update: Update) -> tuple[str, float]:
        if self.ended:
            return "late", 0.0
        if not is_finite(update):
            self.nonfinite_in_a_row += 1
            if self.nonfinite_in_a_row > self.tolerated:
                self.ended = "diverged"
            return "nonfinite", 0.0
        self.nonfinite_in_a_row = 0
        weight = self.weight(self.version - update.version)
        return ("applied" if weight else "dropped"), weight

    def _step_if_ready(self) -> None:
        if self.started and not self.ended and self.rule.ready(self.ledger.active()):
            self.parameters.step(self.rule.direction(), self.samples)
            self.published = self.buffers.value

    def _release(self) -> list[Reply]:
        """Answer those who may go on, in the order of their numbers."""
        if self.ended:
            return self._answer(self.ledger.waiting(), None)
        if not self.started:
            return []
        workers = self.policy.release(self.ledger, self.version)
        return self._answer(workers, self.snapshot() if workers else None)

    def _answer(self, workers: list[int], model: Model | None) -> list[Reply]:
        replies = [Reply(worker, model) for worker in workers]
        for reply in replies:
            self.ledger.answered(reply)
        return replies

    def _row(self, update: Update, now: float, staleness: int, applied: bool) -> Event:
        accuracy = None if update.correct is None else update.correct / update.samples
        measured = {"loss": update.loss, "accuracy": accuracy, "samples": update.samples}
        return Event(now, "push", update.worker, update.round, staleness=staleness, applied=int(applied), **measured)

    def _finish(self, event: Event, before: int) -> list[Reply]:
        """Release who may go on and tell the observers what happened."""
        replies = self._release()
        waiting = self.ledger.waiting()
        for observer in self.observers:
            observer.event(replace(event, version=self.version, waiting=len(waiting)))
        if self.version != before:
            for observer in self.observers:
                observer.version(self, event.time_s)
        if self.started and waiting and not replies and set(waiting) == self.ledger.active():
            self.ended = "error"
            raise Deadlock(self._who_waits(waiting))
        return replies

    def _who_waits(self, waiting: list[int]) -> str:
        rows = [f"  worker {w} waits for {self.policy.reason(self.ledger, w)}" for w in waiting]
        return "\n".join(["deadlock: every active worker waits and none is released", *rows])

    # To continue later

    def state_dict(self, now: float) -> dict:
        """Everything that the next update depends on. Shares no memory with the server."""
        return {
            "parameters": self.parameters.state_dict(),
            "buffers": self.buffers.state_dict(),
            "published": self.published,
            "rule": self.rule.state_dict(),
            "ledger": self.ledger.state_dict(),
            "samples": self.samples,
            "counts": dict(self.counts),
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "seconds": self.training_seconds(now),
        }

    def load_state_dict(self, state: dict) -> None:
        for part in ("parameters", "buffers", "rule", "ledger"):
            getattr(self, part).load_state_dict(state[part])
        self.samples, self.seconds, self.published = state["samples"], state["seconds"], state["published"]
        self.counts.update(state["counts"])
        self.nonfinite_in_a_row = state["nonfinite_in_a_row"]


def is_finite(update: Update) -> bool:
    """Whether loss and payload are finite. The sum is one pass; only where it is not finite a second one decides."""
    if not isfinite(update.loss):
        return False
    return isfinite(update.payload.sum().item()) or bool(update.payload.isfinite().all())
