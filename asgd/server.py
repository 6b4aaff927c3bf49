"""The parameter server: a function from arrivals to replies.

An arrival goes in (``join``, ``push``, ``leave``, ``tick``), and the replies that are now due come out. Asynchrony is
nothing but the choice of who gets a reply when: the rule decides what an update does to the parameters, the policy
which of the waiting workers go on. There is no clock, thread or socket in here; an engine calls and says what time it
is. So the parameters depend only on the configuration, the seed and the order of arrival.
"""

from math import inf

from asgd.budget import Budget
from asgd.gate import Gate, Guard, Guarded, measured
from asgd.ledger import Entry, Ledger, ProtocolError
from asgd.messages import Model, Reply, Update, an_event
from asgd.parameters import Parameters
from asgd.precision import Precision

COUNTS = ("applied", "dropped", "cancelled", "duplicate", "nonfinite", "late", "outdated", "oversized")


class Deadlock(RuntimeError):
    """Every active worker waits and the policy releases none."""


class Server:
    """``workers`` have to join before anybody gets a model. ``buffers`` merges running statistics (``asgd.buffers``).

    ``correction`` changes a payload by what has happened since its worker was given a model (``asgd.corrections``);
    ``reads`` may give a worker something older than the newest model (``asgd.reads``); ``leases`` says what each is to
    read (``asgd.data.leases``); ``codec`` decodes payloads (``asgd.codecs``); ``weights`` rounds the models that are
    given out (``asgd.precision``); ``nonfinite``, ``guard``: see ``asgd.gate``; ``ledger``: a new one of another kind.
    Observers get ``event(Event)`` for every arrival and ``version(server, now)`` after every step.
    """

    elementwise = True  # whether its decisions do without the vector (``asgd.elementwise``)

    def __init__(
        self, parameters: Parameters, buffers, rule, weight, policy, budget: Budget, workers: int, nonfinite="stop",
        correction=None, reads=None, leases=None, codec=None, weights=None, ledger=None, guard: Guard | None = None,
    ):  # fmt: skip
        self.parameters, self.buffers, self.rule, self.policy = parameters, buffers, rule, policy
        self.budget, self.workers, self.correction, self.reads = budget, workers, correction, reads
        self.leases, self.codec, self.weights = leases, codec, weights or Precision()
        like = {"payload": parameters.vector, "buffers": buffers.value}
        self.gate = Guarded(guard, weight, nonfinite, **like) if guard else Gate(weight, nonfinite, **like)
        self.published = buffers.value  # the buffers that belong to this version, [B]
        self.plain_bytes = parameters.vector.nbytes + buffers.value.nbytes  # of an update without codec
        self.model_bytes = self.weights.nbytes(parameters.vector) + buffers.value.nbytes  # as workers are given it
        self.given = 0  # models that workers were given
        self.ledger = Ledger() if ledger is None else ledger
        self.observers: list = []
        self.counts = dict.fromkeys(COUNTS, 0)
        self.samples = 0  # of the applied updates
        self.missing: set[int] = set()  # workers that left before the start
        self.begin: float | None = None  # when the first model was given out
        self.deadline = inf  # when the budget of seconds ends
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
        return due + self._finish(before, now, "join", worker, self.ledger[worker].round)

    def push(self, update: Update, now: float) -> list[Reply]:
        """A worker brings an update and asks for the next model. An update that comes again changes nothing."""
        entry, before = self.check(update), self.parameters.version
        worker, _, round, version = update[:4]
        if round < entry.round:
            self.counts["duplicate"] += 1
            return [entry.reply] if entry.reply else []
        staleness = before - version
        if now > self.deadline:
            self._end_if_spent(now)
        size = self.plain_bytes if self.codec is None else update.payload.nbytes + update.buffers.nbytes
        if self.codec is not None:
            update = self._decoded(update)
        fate = self._accept(update, staleness, entry)
        if self.leases is not None and fate != "late":
            self.leases.done(worker, *update.read)
        self.ledger.received(worker)
        self._step_if_ready(worker)
        self._end_if_spent(now)
        return self._finish(before, now, "push", worker, round, staleness, measured(update, fate), size)

    def check(self, update: Update) -> Entry:
        """Whose update it is. ProtocolError for one that no correct worker sends; nothing changes."""
        entry, (worker, _, round, version) = self.ledger.sender(update), update[:4]
        if round == entry.round:
            if not 0 <= version <= self.version:
                raise ProtocolError(f"worker {worker}: version {version} is not in 0..{self.version}")
            if self.leases is not None and not (update.read and self.leases.gave(worker, *update.read)):
                raise ProtocolError(f"worker {worker} has read batch {update.read}, which it was not given")
        return entry

    def cancel(self, workers: list[int], now: float) -> list[Reply]:
        """Workers of ``obsolete`` have dropped what they did. They ask for a newer model, for the same rounds.

        One event for all, whose staleness is the sum of the ages of the work that was dropped.
        """
        working = self.ledger.working
        if idle := [worker for worker in workers if worker not in working]:
            raise ProtocolError(f"workers {idle} have no work that could be cancelled")
        ages = sum(self.version - working[worker] for worker in workers)
        self.counts["cancelled"] += len(workers)
        for worker in workers:
            self.ledger.dropped(worker)
        self.ledger.phase = None  # several wait anew: look at all
        return self._finish(self.version, now, "cancel", None, None, ages)

    def leave(self, worker: int, now: float) -> list[Reply]:
        """A worker has gone, which may complete a barrier or unblock others. Leaving twice is leaving once."""
        entry, before = self.ledger.get(worker), self.version
        here = entry is not None and entry.active
        if not here and (self.started or worker in self.missing):
            return self._release()
        age = self.ledger.loses(worker, before)
        if not self.started:
            self.missing.add(worker)
        if here:
            self.ledger.leave(worker)
            if self.leases is not None:
                self.leases.back(worker)
        self.buffers.forget(worker)
        self._advance(now)
        return self._finish(before, now, "leave", worker, entry.round if entry else None, age)

    def tick(self, now: float) -> list[Reply]:
        """Time has passed: the budget of seconds may be spent."""
        self._end_if_spent(now)
        return self._release()

    def end(self, reason: str, now: float | None = None) -> list[Reply]:
        """No update counts from now on, whenever that is, and everybody who asks is told to stop."""
        self.ended = self.ended or reason
        return self._release()

    # What an engine may ask

    def obsolete(self) -> list[int]:
        """The workers whose work is not worth finishing; an engine that can interrupt them then calls ``cancel``."""
        return [] if self.ended else self.policy.obsolete(self.ledger, self.version)

    def takes(self, version: int) -> bool:
        """Whether an update computed on ``version`` would be looked at if it came now."""
        return not self.ended and bool(self.gate.weight(self.version - version))

    @property
    def selective(self) -> bool:
        """Whether work may turn out to have been in vain."""
        return self.gate.weight.selective or self.policy.selective

    # What happens inside

    @property
    def version(self) -> int:
        return self.parameters.version

    @property
    def started(self) -> bool:
        return self.begin is not None

    def snapshot(self) -> Model:
        """The parameters themselves, for evaluation."""
        return self.parameters.snapshot(self.published)

    def model(self) -> Model:
        """What workers compute on: the parameters, or where momentum is about to take them."""
        ahead = self.rule.look_ahead()
        return self.snapshot() if ahead is None else self.parameters.ahead(self.published, ahead)

    def training_seconds(self, now: float) -> float:
        """Seconds since the first model was given out, those before a resume included."""
        return self.seconds if self.begin is None else self.seconds + now - self.begin

    def _start_if_complete(self, now: float) -> None:
        active = self.ledger.active()
        if not self.started and active and len(active) + len(self.missing) >= self.workers:
            self.begin, self.deadline = now, now + self.budget.seconds - self.seconds

    def _advance(self, now: float) -> None:
        """Start, end and step, where who has come or gone is what that waited for."""
        self._start_if_complete(now)
        self._end_if_spent(now)
        self._step_if_ready()
        self._end_if_spent(now)

    def _end_if_spent(self, now: float) -> None:
        used_up = now > self.deadline or self.budget.spent(self.parameters.version, self.samples)
        if used_up and self.begin is not None:
            self.ended = self.ended or "budget"

    def _accept(self, update: Update, staleness: int, entry: Entry) -> str:
        """Give the update to the rule, unless the run is over or the gate does not let it in."""
        fate, weight = ("late", 0.0) if self.ended else self.gate.judge(update, staleness)
        self.counts[fate] += 1
        if fate == "applied":
            worker, buffers, samples = update.worker, update.buffers, update.samples
            self.rule.add(self._corrected(update, entry) if self.correction else update, weight)
            self.buffers.merge(worker, buffers)
            entry.contributed = self.parameters.version
            self.samples += samples
        elif fate not in ("dropped", "late") and self.gate.hopeless(self.ledger.working.keys() | {update.worker}):
            self.ended = "diverged"
        return fate

    def _decoded(self, update: Update) -> Update:
        try:
            return update._replace(payload=self.codec.decode(update.payload), finite=None, norm=None)
        except ValueError as error:
            raise ProtocolError(f"worker {update.worker}: {error}") from error

    def _corrected(self, update: Update, entry: Entry) -> Update:
        view, params = self.ledger.view(update, entry).params, self.parameters.vector.detach()
        return update._replace(payload=self.correction(update, view, params, self.version))

    def _step_if_ready(self, worker: int | None = None) -> None:
        """One step if the rule has what it needs; ``worker`` is the one that brought it."""
        if self.begin is None or self.ended or not self.rule.ready(self.ledger.active()):
            return
        before = self.parameters.vector.detach() if self.reads else None
        self.parameters.step(self.rule.direction(), self.samples)
        self.published = self.buffers.value
        if self.reads:
            self.reads.stepped(worker, self.parameters.vector.detach() - before)

    def _release(self) -> list[Reply]:
        """Answer those who may go on, in the order of their numbers."""
        ledger = self.ledger
        if self.ended:
            return [ledger.answered(worker, None) for worker in ledger.waiting()]
        workers = self.policy.release(ledger, self.parameters.version) if self.begin is not None else []
        newest, replies = self.model() if workers else None, []
        for worker in workers:
            read = self.reads.read(worker, newest, ledger) if self.reads else newest
            given = self.weights.rounded(read)
            replies.append(ledger.answered(worker, given, self.leases.grant(worker) if self.leases else ()))
        self.given += len(replies)
        return replies

    def _finish(self, before, now, event, worker, round, staleness=None, outcome=(None,) * 4, size=None) -> list[Reply]:
        """Release who may go on and tell the observers what happened. ``outcome``: see ``gate.measured``."""
        replies, version = self._release(), self.parameters.version
        waiting = len(self.ledger.queue)
        happened = an_event((now, event, worker, round, version, staleness, *outcome, waiting, size))
        for observer in self.observers:
            observer.event(happened)
            if version != before:
                observer.version(self, now)
        if waiting and not replies and self.begin is not None and waiting == len(self.ledger.active()):
            self.ended = "error"
            raise Deadlock(self._who_waits())
        return replies

    def _who_waits(self) -> str:
        rows = [f"  worker {w} waits for {self.policy.reason(self.ledger, w)}" for w in self.ledger.waiting()]
        return "\n".join(["deadlock: every active worker waits and none is released", *rows])

    # To continue later

    def state_dict(self, now: float) -> dict:
        """Everything that the next update depends on. Shares no memory with the server."""
        return {
            "parameters": self.parameters.state_dict(),
            "buffers": self.buffers.state_dict(),
            "published": self.published,
            "rule": self.rule.state_dict(),
            "correction": self.correction.state_dict() if self.correction else {},
            "ledger": self.ledger.state_dict(),
            "leases": self.leases.state_dict() if self.leases else {},
            "samples": self.samples,
            "counts": dict(self.counts),
            "given": self.given,
            "gate": self.gate.state_dict(),
            "seconds": self.training_seconds(now),
        }

    def load_state_dict(self, state: dict) -> None:
        for part in ("parameters", "buffers", "rule", "ledger"):
            getattr(self, part).load_state_dict(state[part])
        if self.correction:
            self.correction.load_state_dict(state["correction"])
        if self.leases and "leases" in state:
            self.leases.load_state_dict(state["leases"])
        self.samples, self.seconds, self.published = state["samples"], state["seconds"], state["published"]
        self.counts |= state["counts"]
        self.given = state.get("given", 0)
        self.gate.load_state_dict(state.get("gate") or state)  # older ones have its count among the server's
