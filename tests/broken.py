"""Workers that fail as scripted."""

import os
import signal
import threading
from pathlib import Path

from asgd.workers import GradientWorker


class FailsAtRound(GradientWorker):
    """Raises at round ``fails[rank]``."""

    def __init__(self, task, rank, session, round=0, seed=0, *, fails: dict[int, int]):
        super().__init__(task, rank, session, round, seed)
        self.fails = fails.get(rank, fails.get(str(rank)))

    def compute(self, model, batches):
        if self.round == self.fails:
            raise RuntimeError(f"scripted failure at round {self.round}")
        return super().compute(model, batches)


class StuckAtRound(FailsAtRound):
    """Never comes back from round ``fails[rank]``."""

    def compute(self, model, batches):
        if self.round == self.fails:
            threading.Event().wait()
        return super().compute(model, batches)


class KilledOnce(FailsAtRound):
    """Kills its process at round ``fails[rank]`` of the run with ``seed_of_death``, unless ``marker`` is there."""

    def __init__(self, *arguments, marker: str, seed_of_death: int, seed=0, **keywords):
        super().__init__(*arguments, seed=seed, **keywords)
        self.marker, self.deadly = Path(marker), seed == seed_of_death

    def compute(self, model, batches):
        if self.deadly and self.round == self.fails and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return GradientWorker.compute(self, model, batches)


class SendsTimes(GradientWorker):
    """Sends ``factor`` times its gradient where its rank is one of ``liars``, once every ``every`` rounds."""

    def __init__(self, task, rank, session, round=0, seed=0, *, liars: list[int], factor: float, every: int = 1):
        super().__init__(task, rank, session, round, seed)
        self.factor, self.every = factor if rank in liars else 1.0, every

    def payload(self, gradient):
        return gradient * self.factor if self.round % self.every == 0 else gradient
