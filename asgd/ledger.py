"""The ledger: what the server knows of each worker. It makes every push count exactly once."""

from dataclasses import dataclass

from asgd.messages import Model, Reply, Update, a_reply


class ProtocolError(ValueError):
    """A message that no correct worker sends: an unknown session, a gap in the rounds, a wrong shape or version."""


@dataclass(slots=True)
class Entry:
    """One worker. ``round`` is the next one expected; ``clock`` is what policies compare."""

    session: int = 0
    round: int = 0
    clock: int = 0
    contributed: int | None = None  # the server's version that its last accepted update met
    active: bool = False
    reply: Reply | None = None  # the last one given, for a push that is sent again; None until there is one

    @property
    def waiting(self) -> bool:
        return self.active and self.reply is None


class Ledger(dict[int, Entry]):
    """Worker number -> Entry. Who is there, who waits and who works is kept up to date, not searched for.

    ``working`` maps the workers that compute to the version they were given, the longest at it first. ``phase`` is
    the state in which a policy last looked at all that wait (``asgd.policies``).
    """

    __slots__ = ("_active", "_clock", "_slowest", "phase", "queue", "working")  # three times as fast as without

    jobs = 1  # under way for each worker that does not wait

    def __init__(self):
        super().__init__()
        self.working: dict[int, int] = {}
        self.phase: object = None
        self.queue: dict[int, Entry] = {}  # who waits, in the order in which they began to
        self._active: set[int] = set()
        self._slowest: set[int] = set()  # active workers at the smallest clock; looked for when nobody is left in it
        self._clock = 0  # theirs

    def active(self) -> set[int]:
        return self._active

    def waiting(self) -> list[int]:
        return sorted(self.queue) if len(self.queue) > 1 else list(self.queue)

    def newest(self) -> list[int]:
        """Who began to wait last."""
        return [next(reversed(self.queue))] if self.queue else []

    def slowest(self) -> int:
        """The smallest clock of the active workers; 0 without any."""
        if not self._slowest:
            self._clock = min((self[worker].clock for worker in self._active), default=0)
            self._slowest = {worker for worker in self._active if self[worker].clock == self._clock}
        return self._clock

    def join(self, worker: int, session: int, clock: int) -> None:
        """A new life of a worker, which starts at ``clock`` or later, so that nobody waits for it to catch up."""
        entry = self.setdefault(worker, Entry())
        entry.clock = max(entry.clock, clock)
        entry.session, entry.active, entry.reply = session, True, None
        self._active.add(worker)
        self.queue[worker] = entry
        if self._slowest and entry.clock == self._clock:
            self._slowest.add(worker)
        elif entry.clock < self._clock:
            self._slowest.clear()

    def leave(self, worker: int) -> None:
        entry = self[worker]
        entry.active, entry.reply = False, None
        self._active.discard(worker)
        self._slowest.discard(worker)
        self.queue.pop(worker, None)
        self.working.pop(worker, None)

    def sender(self, update: Update) -> Entry:
        """Whose update it is; one of an earlier round came before. ProtocolError where it cannot belong here."""
        worker, session, round = update[:3]
        entry = self.get(worker)
        if entry is None or not entry.active or entry.session != session:
            raise ProtocolError(f"worker {worker}: session {session} has not joined or was replaced")
        if round > entry.round:
            raise ProtocolError(f"worker {worker}: round {round} came before round {entry.round}; an update was lost")
        if round == entry.round and entry.reply is None:
            raise ProtocolError(f"worker {worker}: round {round} came before it was given a model")
        return entry

    def received(self, worker: int) -> None:
        """The worker's round is here; it waits."""
        entry = self.queue[worker] = self[worker]
        entry.round += 1
        entry.clock += 1
        entry.reply = None
        self._slowest.discard(worker)
        self.working.pop(worker, None)

    def dropped(self, worker: int) -> None:
        """The worker has let go of what it did; it waits for the same round."""
        entry = self.queue[worker] = self[worker]
        entry.reply = None
        self.working.pop(worker, None)

    def answered(self, worker: int, model: Model | None, leases: tuple = ()) -> Reply:
        """The worker is given ``model`` and works on it, or is told to stop."""
        reply = self.queue.pop(worker).reply = a_reply((worker, model, leases))
        if model is not None:
            self.working[worker] = model.version
        return reply

    def view(self, update: Update, entry: Entry) -> Model:
        """What an update that is here was computed on; to be asked before it is ``received``."""
        return entry.reply.model

    def loses(self, worker: int, version: int) -> int | None:
        """The age of the work that goes with a worker which is about to leave; None if it waits or was told to stop."""
        given = self.working.get(worker)
        return None if given is None else version - given

    def in_flight(self, version: int) -> int:
        """The ages of all jobs under way, summed."""
        return sum(version - given for given in self.working.values())

    def state_dict(self) -> dict[int, dict]:
        keep = ("round", "clock", "contributed")
        return {worker: {name: getattr(entry, name) for name in keep} for worker, entry in self.items()}

    def load_state_dict(self, state: dict[int, dict]) -> None:
        self.update({worker: Entry(**values) for worker, values in state.items()})
