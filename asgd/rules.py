"""Rules: what received updates do to the parameters. They do not know who is waiting."""

from math import ceil, inf

import torch

from asgd.messages import Update


class MeanOfUpdates:
    """Step along ``(1/K) sum_l w_l g_l`` once any ``count`` = K updates are there.

    K = 1 applies each update by itself (ASGD); K > 1 is n-softsync (Zhang et al. 2016) and K-batch-async (Dutta et al.
    2018, arXiv:1803.01113). The weight multiplies each payload before the division by K.
    """

    elementwise = True  # whether every parameter is treated by itself (``asgd.elementwise``); each class says so anew

    def __init__(self, count: int = 1):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"count={count}: a step takes 1 or more updates, a whole number")
        self.count = count
        self.received: list[tuple[Update, float]] = []

    def add(self, update: Update, weight: float) -> None:
        self.received.append((update, weight))

    looks_ahead = False  # whether workers compute elsewhere than at the parameters

    @property
    def holds(self) -> bool:
        """Whether a payload is needed longer than the push that brings it."""
        return self.count > 1

    def ready(self, active: set[int]) -> bool:
        """Whether a step is due, given the workers that are still there."""
        return len(self.received) >= self.count

    def look_ahead(self) -> torch.Tensor | None:
        """[P] or None: workers compute at the parameters minus the learning rate times this."""
        return None

    def direction(self) -> torch.Tensor:
        """[P], what the optimizer takes for the gradient. Empties the buffer."""
        received, self.received = self._ordered(), []
        if len(received) == 1 and received[0][1] == 1.0:
            return received[0][0].payload
        total = torch.zeros_like(received[0][0].payload)
        for update, weight in received:
            total.add_(update.payload, alpha=weight / len(received))
        return total

    def _ordered(self) -> list[tuple[Update, float]]:
        return self.received

    def state_dict(self) -> dict:
        return {"received": [(update._asdict(), weight) for update, weight in self.received]}

    def load_state_dict(self, state: dict) -> None:
        self.received = [(Update(**update), weight) for update, weight in state["received"]]


class MeanOfWorkers(MeanOfUpdates):
    """Step along the mean once ``count`` workers have contributed, or all that are still there.

    ``count=None`` waits for all: synchronous SGD. ``count`` = N of N + b workers: backup workers (Chen et al. 2016,
    arXiv:1604.00981). Summed in the order of the workers, so that the result does not depend on who came first.
    """

    elementwise = True

    def __init__(self, count: int | None = None):
        super().__init__(1 if count is None else count)
        self.count = inf if count is None else count
        self.contributors: set[int] = set()

    def add(self, update: Update, weight: float) -> None:
        super().add(update, weight)
        self.contributors.add(update.worker)

    def ready(self, active: set[int]) -> bool:
        there = self.contributors
        return bool(there) and (len(there) >= self.count or active <= there)

    def _ordered(self) -> list[tuple[Update, float]]:
        self.contributors = set()
        return sorted(self.received, key=lambda entry: (entry[0].worker, entry[0].round))

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.contributors = {update.worker for update, _ in self.received}


def all_but(backups: int | float, workers: int) -> MeanOfWorkers:
    """The mean of the first ``workers - backups`` workers; the late ones are not waited for.

    ``backups`` below 1 is a share of the workers, rounded up to a whole number of them.
    """
    count = ceil(backups * workers) if 0 < backups < 1 else backups
    if not 0 <= count < workers or count != int(count):
        raise ValueError(f"backups={backups}: 0 to workers - 1 = {workers - 1}, or a share of them below 1")
    return MeanOfWorkers(workers - int(count))


def first(count: int | None, workers: int) -> MeanOfWorkers:
    """The mean of the first ``count`` = K workers: K-sync and K-async (Dutta et al. 2018, arXiv:1803.01113).

    None stands for half of the workers, rounded up.
    """
    count = (workers + 1) // 2 if count is None else count
    if not 1 <= count <= workers:
        raise ValueError(f"count={count}: 1 to workers = {workers}")
    return MeanOfWorkers(count)


def softsync(splits: int, workers: int) -> MeanOfUpdates:
    """n-softsync: a step for every ``workers // splits`` updates (n = ``splits``; Zhang et al. 2016)."""
    if not 1 <= splits <= workers:
        raise ValueError(f"splits={splits}: 1 to workers = {workers}")
    return MeanOfUpdates(workers // splits)
