"""The server's side of a real run: the server behind its hub, the workers' comings and goings, the end of the run."""

import logging
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from asgd.display import Display
from asgd.engines.base import Clock
from asgd.engines.hub import Hub
from asgd.engines.recorder import Recorder
from asgd.evaluations import Evaluations
from asgd.job import Job

log = logging.getLogger(__name__)

MARK = "stats/ps/.run"  # holds a fresh number, by which a node knows the server's folder when it sees it
LOOK, SHORTEST = 0.25, 0.001  # seconds between two looks at the run


class Host(Recorder):
    """``evaluate(model)`` judges a snapshot; it is called outside the exchange of messages."""

    def __init__(self, job: Job, folder: Path, evaluate: Callable, on_worker_failure: str):
        super().__init__(job, folder, Clock(), partial(Evaluations, evaluate=evaluate))
        self.on_worker_failure, self.hub = on_worker_failure, self.new_hub()
        self.lock = self.hub.lock
        self.mark = secrets.token_hex(16)
        (folder / MARK).write_text(self.mark)

    def new_hub(self) -> Hub:
        return Hub(self.server, self.clock)

    def goodbye(self, worker: int, skipped: int = 0) -> None:
        """The worker has ended as it should."""
        with self.hub.lock:
            self.skipped += skipped
        self._leave(worker)

    def lost(self, worker: int, reason: str) -> None:
        """The worker died. The others go on, unless the configuration says to stop."""
        if worker in self.failed:
            return
        self.failed[worker] = reason
        log.error("worker %d failed: %s", worker, reason)
        self._leave(worker)
        if self.on_worker_failure == "stop":
            self.hub.end("error")

    def _leave(self, worker: int) -> None:
        self.hub.leave(worker)
        everybody = self.server.started or len(self.server.missing) >= self.job.workers
        if everybody and not self.hub.active():
            self.hub.end("error")  # nobody is left; changes nothing if the run has ended already

    def wait(self, join_timeout: float) -> None:
        """Until the run is over: show how it goes, and let time pass for the server."""
        with Display() as display:
            while not self.hub.over.wait(self._until_next_look()):
                if self.interrupted.is_set():
                    self.hub.end("interrupted")
                if not self.server.started and self.clock() - self.clock_start > join_timeout:
                    self._give_up(join_timeout)
                self.hub.tick()
                display.show(self.view)

    def _until_next_look(self) -> float:
        """Seconds: to the deadline of the budget if that is near, when only ``tick`` can end the run."""
        return min(LOOK, max(SHORTEST, self.server.deadline - self.clock()))

    def _give_up(self, seconds: float) -> None:
        here = sorted(self.hub.active())
        log.error("workers %s of %d have joined within %g s; giving up", here, self.job.workers, seconds)
        self.hub.end("error")
