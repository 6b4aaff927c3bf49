"""The ledger: what the server knows of each worker. It makes every push count exactly once."""

from dataclasses import dataclass

from asgd.messages import Reply, Update


class ProtocolError(ValueError):
    """A message that no correct worker sends: an unknown session, a gap in the rounds, a wrong shape or version."""


@dataclass
class Entry:
    """One worker. ``round`` is the next one expected; ``clock`` is what policies compare."""

    session: int = 0
    round: int = 0
    clock: int = 0
    contributed: int | None = None  # the server's version that its last accepted update met
    active: bool = False
    waiting: bool = False
    reply: Reply | None = None  # the last one given, for a push that is sent again


class Ledger(dict[int, Entry]):
    """Worker number -> Entry."""

    def active(self) -> set[int]:
        return {worker for worker, entry in self.items() if entry.active}

    def waiting(self) -> list[int]:
        return sorted(worker for worker, entry in self.items() if entry.waiting)

    def slowest(self) -> int:
        """The smallest clock of the active workers; 0 without any."""
        return min((entry.clock for entry in self.values() if entry.active), default=0)

    def join(self, worker: int, session: int, clock: int) -> None:
        """A new life of a worker, which starts at ``clock`` or later, so that nobody waits for it to catch up."""
        entry = self.setdefault(worker, Entry())
        entry.clock = max(entry.clock, clock)
        entry.session, entry.active, entry.waiting, entry.reply = session, True, True, None

    def leave(self, worker: int) -> None:
        entry = self[worker]
        entry.active, entry.waiting, entry.reply = False, False, None

    def is_duplicate(self, update: Update) -> bool:
        """Whether the update has been received before. ProtocolError where it cannot belong here."""
        entry = self.get(update.worker)
        if entry is None or not entry.active or entry.session != update.session:
            raise ProtocolError(f"worker {update.worker}: session {update.session} has not joined or was replaced")
        if update.round > entry.round:
            raise ProtocolError(
                f"worker {update.worker}: round {update.round} came before round {entry.round}; an update was lost"
            )
        return update.round < entry.round

    def received(self, worker: int) -> None:
        entry = self[worker]
        entry.round, entry.clock, entry.waiting, entry.reply = entry.round + 1, entry.clock + 1, True, None

    def answered(self, reply: Reply) -> None:
        entry = self[reply.worker]
        entry.waiting, entry.reply = False, reply

    def state_dict(self) -> dict[int, dict]:
        keep = ("round", "clock", "contributed")
        return {worker: {name: getattr(entry, name) for name in keep} for worker, entry in self.items()}

    def load_state_dict(self, state: dict[int, dict]) -> None:
        self.update({worker: Entry(**values) for worker, values in state.items()})
