"""Workers that compute while their last update and the model it brings are on the way (``worker.overlap=true``).

Update r + 1 is computed on the answer to update r - 1, while update r travels; updates 0 and 1 on a life's first model.
So a worker that does not wait has two jobs under way, and each update is one round of its worker older than without.
With N workers that never wait the mean staleness tends to 2 N - 1 in place of N - 1.
"""

from asgd.ledger import Entry, Ledger
from asgd.messages import Model, Reply, Update
from asgd.server import Server
from asgd.workers import Worker


class OverlapLedger(Ledger):
    """A ledger that also knows the model that a worker's next update is computed on, which is not the last it got."""

    __slots__ = ("gone", "views")

    jobs = 2

    def __init__(self):
        super().__init__()
        self.views: dict[int, Model] = {}
        self.gone = 0  # ages of jobs that went with workers that waited or had been told to stop

    def join(self, worker: int, session: int, clock: int) -> None:
        super().join(worker, session, clock)
        self.views.pop(worker, None)

    def leave(self, worker: int) -> None:
        super().leave(worker)
        self.views.pop(worker, None)

    def received(self, worker: int) -> None:
        self.views[worker] = self[worker].reply.model
        super().received(worker)

    def answered(self, worker: int, model: Model | None, leases: tuple = ()) -> Reply:
        if model is not None:
            self.views.setdefault(worker, model)
        return super().answered(worker, model, leases)

    def view(self, update: Update, entry: Entry) -> Model:
        return self.views[update.worker]

    def loses(self, worker: int, version: int) -> int | None:
        age, first = super().loses(worker, version), self._first(worker, version)
        if age is None:
            self.gone += first
        return None if age is None else age + first

    def in_flight(self, version: int) -> int:
        return super().in_flight(version) + sum(self._first(worker, version) for worker in self.views) + self.gone

    def _first(self, worker: int, version: int) -> int:
        """The age of the job that a worker ends next; 0 without one."""
        return version - self.views[worker].version if worker in self.views else 0


def check(server: Server, worker: Worker) -> None:
    """ValueError for methods that need each update to be computed on the last model that its worker was given."""
    weight = server.gate.weight
    reasons = {
        "the policy interrupts work": server.policy.selective,
        "the weight (or the guard) drops what is one version old, which every update is then": not weight(1),
        "the rule sends workers ahead to where the parameters are at their next update": server.rule.looks_ahead,
        "workers go on with copies that hold their own updates (reads)": server.reads is not None,
        "batches are leased, and a worker may need more of them before the next answer": server.leases is not None,
        "the worker goes on from the answer to its last update": not worker.overlaps,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(f"worker.overlap=true does not fit this method: {found[0]}; leave it false")
