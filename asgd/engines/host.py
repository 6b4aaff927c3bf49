"""The server's side of a real run: the server behind its hub, all that observes it, and the end of the run."""

import logging
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from asgd import checkpoints, describe, results
from asgd.display import Display
from asgd.engines.base import Clock, Node
from asgd.engines.hub import Hub
from asgd.evaluations import Evaluations
from asgd.job import Job
from asgd.observers import Every, Status, UpdateLog
from asgd.summary import summarise

log = logging.getLogger(__name__)

MARK = "stats/ps/.run"  # holds a fresh number, by which a node knows the server's folder when it sees it


class Host:
    """``evaluate(model)`` judges a snapshot; it is called outside the exchange of messages.

    ``interrupted`` is set by whoever wants the run to end early. ``failed`` maps dead workers to what is known of it.
    """

    def __init__(self, job: Job, folder: Path, evaluate: Callable, on_worker_failure: str):
        self.job, self.folder, self.on_worker_failure = job, folder, on_worker_failure
        self.server = job.server(job.task("cpu"))
        state = self._resumed()
        self.clock = Clock(state["clock"] if state else 0.0)
        self.clock_start = self.clock()
        self.hub = Hub(self.server, self.clock)
        self.node = Node(folder, "ps", describe.node(job.config, "ps", None, "cpu", job.threads), self.clock)
        self.mark = secrets.token_hex(16)
        (folder / MARK).write_text(self.mark)
        self.updates = UpdateLog(self.node.folder, rows=state["events"] if state else 0)
        self.status, self.interrupted = Status(), threading.Event()
        self.evaluations = Evaluations(self.node.folder, evaluate)
        self.checkpoints = checkpoints.Checkpoints(folder, job.config["checkpoint"]["keep"])
        self.failed: dict[int, str] = {}
        self.skipped = 0
        self.rate_mark = (self.clock(), self.server.version)
        evaluate = Every(job.config["evaluate"]["every"], self.evaluate)
        checkpoint = Every(job.config["checkpoint"]["every"], self.checkpoint)
        self.server.observers = [self.updates, self.status, evaluate, checkpoint]
        if state and self.server.version not in results.evaluation(folder).version.values:
            evaluate.version(self.server, self.clock())  # the run was killed before this one was ready

    def _resumed(self) -> dict | None:
        if not self.job.config["resume"]:
            return None
        state = checkpoints.load(self.folder)
        checkpoints.rewind(self.folder, state)
        self.server.load_state_dict(state["server"])
        log.info("resumed at version %d", self.server.version)
        return state

    def evaluate(self, server, now: float) -> None:
        self.evaluations.submit(server.snapshot(), server.samples, now)

    def checkpoint(self, server, now: float) -> None:
        self.checkpoints.submit(self.state(now))

    def state(self, now: float) -> dict:
        """All that a resumed run needs. The workers' random numbers follow from seed, rank and round."""
        config = self.job.config
        return {"config": config, "server": self.server.state_dict(now), "events": self.updates.rows, "clock": now}

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
            while not self.hub.over.wait(0.25):
                if self.interrupted.is_set():
                    self.hub.end("interrupted")
                if not self.server.started and self.clock() - self.clock_start > join_timeout:
                    self._give_up(join_timeout)
                self.hub.tick()
                display.show(self.figures())

    def _give_up(self, seconds: float) -> None:
        here = sorted(self.hub.active())
        log.error("workers %s of %d have joined within %g s; giving up", here, self.job.workers, seconds)
        self.hub.end("error")

    def figures(self) -> dict:
        """The state of the run, for the display."""
        server, now = self.server, self.clock()
        seconds = server.training_seconds(now)
        (then, version), self.rate_mark = self.rate_mark, (now, server.version)
        return {
            "updates": server.version,
            "rate": (server.version - version) / max(now - then, 1e-9),
            "loss": self.status.loss,
            "staleness": self.status.staleness,
            "alive": len(self.hub.active()),
            "workers": self.job.workers,
            "seconds": seconds,
            "fraction": server.budget.fraction(server.version, server.samples, seconds),
        }

    def finish(self, seconds: float) -> dict:
        """The last evaluation and checkpoint, and the summary. ``seconds`` is the training time."""
        config, now = self.job.config, self.clock()
        interrupted = self.server.ended == "interrupted"
        if interrupted:
            self.evaluations.abandon()
        elif config["evaluate"]["every"] and self.server.ended != "error":
            self.evaluate(self.server, now)
        if config["checkpoint"]["every"]:
            with self.hub.lock:
                self.checkpoint(self.server, now)
        self.checkpoints.close()
        self.evaluations.close(0.5 if interrupted else None)
        self.node.close()
        return summarise(self.folder, self.server, seconds, self.skipped, len(self.failed))
