"""The server's side of a run whose workers come and go, and which goes on after the server itself has died."""

import json
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from asgd import checkpoints
from asgd.engines.host import MARK, Host
from asgd.job import Job
from asgd.records import keep_first, write_json

log = logging.getLogger(__name__)

LIVES = "stats/ps/.lives"  # how many servers this run has had


class Fenced(RuntimeError):
    """Another server has taken the run over; this one must not write any more."""


class StarHost(Host):
    """``epoch`` counts the lives of the run's server. Workers that are lost may come again."""

    def __init__(self, job: Job, folder: Path, evaluate: Callable):
        self.on_disk: deque[dict[int, int]] = deque(maxlen=2)  # rounds of each worker in the last two checkpoints
        super().__init__(job, folder, evaluate, job.engine.on_worker_failure)
        self.epoch, self.alone = self._next_life(), 0.0
        self.checkpoints.saved = self._saved
        if self.saves and not job.config["resume"]:  # so that there is something to go on from
            self._saved(state := self.state(self.clock()))
            checkpoints.save(folder, self.completed(state), job.config["checkpoint"]["keep"])

    def _next_life(self) -> int:
        path = self.folder / LIVES
        lives = json.loads(path.read_text()) + 1 if path.exists() else 1
        write_json(path, lives)
        return lives

    # What no crash can undo

    def saved_state(self) -> dict:
        """The workers live on, and cut their tables themselves when they hear where the server is."""
        return checkpoints.resume(self.folder, self.job.config["checkpoint"]["keep"], of_workers=False)

    def finish(self, seconds: float) -> dict:
        """Also cuts the tables of those who have not come back to hear it."""
        for worker, entry in self.server.ledger.items():
            keep_first(self.folder / f"stats/worker{worker}/training_metrics.csv", entry.round)
        return super().finish(seconds)

    def _saved(self, state: dict) -> None:
        self.on_disk.append({worker: entry["round"] for worker, entry in state["server"]["ledger"].items()})

    def durable(self, worker: int) -> int:
        """The worker's rounds that are in the last checkpoint and in the one before, in case the last is damaged."""
        keeps = self.job.engine.durability == "update"
        return self.on_disk[0].get(worker, 0) if keeps and len(self.on_disk) == 2 else 0

    def completed(self, state: dict) -> dict:
        self.check_fence()
        return super().completed(state)

    def check_fence(self) -> None:
        """Fenced where a later server has put its mark into the folder."""
        try:
            mark = (self.folder / MARK).read_text()
        except OSError:
            return  # the folder is out of reach; what is written there will say so
        if mark != self.mark:
            raise Fenced(f"another server has taken over the run in {self.folder}; this one ends")

    # Who is there

    def goodbye(self, worker: int, skipped: int = 0) -> None:
        with self.hub.lock:
            self.skipped += skipped
        if not self.server.ended:
            log.info("worker %d has left", worker)
        self.hub.leave(worker)

    def lost(self, worker: int, reason: str) -> None:
        """The others go on, and the worker may come again, unless the configuration says to stop."""
        self.failed[worker] = reason
        log.error("worker %d is gone: %s", worker, reason)
        if worker in self.hub.active():  # else it has not joined, and is waited for
            self.hub.leave(worker)
        if self.on_worker_failure == "stop":
            self.hub.end("error")

    def broken(self, error: Exception) -> None:
        """Nobody can come any more, so the run is over."""
        self.hub.error = self.hub.error or error
        self.hub.end("error")

    def wait(self, join_timeout: float) -> None:
        self.patience = join_timeout
        super().wait(join_timeout)

    def _until_next_look(self) -> float:
        """Also looks whether this server is still the run's, and whether anybody is there."""
        self.check_fence()
        now = self.clock()
        if self.hub.active() or not self.server.started:
            self.alone = now
        elif now - self.alone > self.patience and not self.hub.over.is_set():
            log.error("no worker has come back within %g s; giving up", self.patience)
            self.hub.end("error")
        return super()._until_next_look()
