"""Policies: which waiting workers may go on. They see the ledger and the version, never the parameters."""

from asgd.ledger import Ledger


class Immediate:
    """Everybody goes on at once: asynchronous SGD."""

    def release(self, ledger: Ledger, version: int) -> list[int]:
        return ledger.waiting()

    def reason(self, ledger: Ledger, worker: int) -> str:
        return "nothing"


class NextVersion:
    """Who has contributed to the current version waits for the next one: synchronous SGD, backup workers."""

    def release(self, ledger: Ledger, version: int) -> list[int]:
        return [worker for worker in ledger.waiting() if ledger[worker].contributed != version]

    def reason(self, ledger: Ledger, worker: int) -> str:
        return f"the version after {ledger[worker].contributed}"


class BoundedLead:
    """A worker starts its next round only if it is at most ``slack`` rounds ahead of the slowest active one.

    Stale synchronous parallel (Ho et al., NeurIPS 2013) with eager reads: who goes on gets the newest model.
    ``slack=0`` is the barrier.
    """

    def __init__(self, slack: int = 3):
        if slack < 0:
            raise ValueError(f"slack={slack}: rounds a worker may be ahead of the slowest, 0 or more")
        self.slack = slack

    def release(self, ledger: Ledger, version: int) -> list[int]:
        limit = ledger.slowest() + self.slack
        return [worker for worker in ledger.waiting() if ledger[worker].clock <= limit]

    def reason(self, ledger: Ledger, worker: int) -> str:
        return f"clock {ledger[worker].clock - self.slack} of the slowest worker"
