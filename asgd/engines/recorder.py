"""What every engine has in common: the server with all that observes it, and how a run ends."""

import logging
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from asgd import audit, checkpoints, describe, results
from asgd.engines.base import Clock, Node
from asgd.job import Job
from asgd.messages import Model
from asgd.observers import Every, UpdateLog
from asgd.records import LEASES, Table, flatten
from asgd.server import Server
from asgd.summary import summarise
from asgd.trackers.tracking import Tracking, opener
from asgd.watch.progress import Reading, View

log = logging.getLogger(__name__)

TRACKING_SECONDS, HURRY_SECONDS = 60.0, 1.0  # for the trackers at the end, and after Ctrl-C


class Recorder:
    """``evaluations(folder)`` makes what judges snapshots. ``facts`` go into the server's ``parameters.json``.

    ``interrupted`` is set by whoever wants the run to end early. ``failed`` maps dead workers to what is known of it.
    ``log`` writes ``updates.csv``.
    """

    lock = nullcontext()  # held while the server is looked at

    def __init__(self, job: Job, folder: Path, clock: Clock, evaluations, log=UpdateLog, **facts):
        self.job, self.folder, self.clock = job, folder, clock
        self.server, self.lease_rows, self.rolled_back = self.new_server(), 0, 0
        self.server.parameters.step_on(job.server_device)
        state = self._resumed()
        self.clock_start = self.clock()
        limits = {"limits": self.server.budget.limits}
        parameters = describe.node(job.config, "ps", None, str(job.server_device), job.threads) | limits | facts
        self.node = Node(folder, "ps", parameters, clock.real)
        self.evaluations = evaluations(self.node.folder)
        self.updates = log(self.node.folder, state["events"] if state else 0, clock)
        self.reading = Reading(folder, progress=self.updates.progress)
        self.interrupted = threading.Event()
        self.checkpoints = checkpoints.Checkpoints(folder, job.config["checkpoint"]["keep"], self.completed)
        self.failed: dict[int, str] = {}
        self.skipped = 0  # broken samples
        self.begun = time.monotonic()
        self.rate_mark = (self.begun, self.server.version)
        self.evaluates, self.saves = (self._every(name) for name in ("evaluate", "checkpoint"))
        acting = [Every(self.evaluates, self.evaluate), Every(self.saves, self.checkpoint)]
        self.server.observers = [self.updates] + [each for each in acting if each.every]
        self.tracking = self._tracked()
        if state and self.server.version not in results.evaluation(folder).version.values:
            acting[0].version(self.server, self.clock())  # the run was killed before this one was ready

    # What is different where the vector is in parts

    def new_server(self) -> Server:
        return self.job.server(self.job.task("cpu"))

    def load(self, state: dict) -> None:
        """Go on from the ``state`` of a server."""
        self.server.load_state_dict(state)

    def saved_state(self) -> dict:
        """Where a resumed run goes on; the tables are cut to it."""
        return checkpoints.resume(self.folder, self.job.config["checkpoint"]["keep"])

    def snapshot(self) -> Model:
        """What is evaluated, or what that will be made of."""
        return self.server.snapshot()

    def completed(self, state: dict) -> dict:
        """What is saved of a ``state``; it may take its time."""
        return state

    # What observes the server

    def _record_leases(self) -> None:
        """``leases.csv``: batches ``first`` to before ``stop`` of the epoch, in which shard, given to whom or back.

        Counts the data set's samples now, which may take reading it.
        """
        log.info("leased: %d batches in an epoch", sum(self.server.leases.batches))
        table = Table(self.folder / "stats/ps/leases.csv", LEASES)

        def record(event: str, worker: int, lease) -> None:
            first, stop = lease.base + lease.first, lease.base + lease.stop
            table.row(self.clock(), event, worker, lease.epoch, lease.shard, first, stop)
            self.lease_rows += 1

        self.server.leases.record = record

    def _tracked(self) -> Tracking | None:
        """The trackers' observer, where there are any."""
        if not (trackers := self.job.trackers()):
            return None
        parameters = flatten(self.job.config)
        open = opener(self.folder, parameters, self.clock(), self.server.version)
        tracking = Tracking(trackers, self.job.config["track"]["every"], open)
        self.server.observers.append(tracking)
        self.evaluations.told.append(tracking.evaluation)
        return tracking

    def _every(self, action: str) -> int:
        """Updates between two; 0, never, where there are no parameters to look at."""
        return self.job.config[action]["every"] if self.server.parameters.vector.numel() else 0

    def _resumed(self) -> dict | None:
        config = self.job.config
        state = self.saved_state() if config["resume"] else None
        if state:
            self.lease_rows, self.rolled_back = state["lease_rows"], state["rolled_back"]
        if self.server.leases:
            self._record_leases()
        if not state:
            return None
        self.load(state["server"])
        self.clock.set(state["clock"])
        log.info("resumed at version %d, %d pushes rolled back so far", self.server.version, self.rolled_back)
        return state

    def evaluate(self, server, now: float) -> None:
        self.evaluations.submit(self.snapshot(), server.samples, now)

    def checkpoint(self, server, now: float) -> None:
        self.checkpoints.submit(self.state(now))

    def state(self, now: float) -> dict:
        """All that a resumed run needs. The workers' random numbers follow from seed, rank and round."""
        config = self.job.config
        self.updates.flush()
        rows = {"events": self.updates.rows, "lease_rows": self.lease_rows, "rolled_back": self.rolled_back}
        return {"config": config, "server": self.server.state_dict(now), "clock": now} | rows

    def view(self) -> View:
        """The state of the run, for the display. Rate and seconds are of real time."""
        server, real, now = self.server, time.monotonic(), self.clock()
        (then, version), self.rate_mark = self.rate_mark, (real, server.version)
        return View(
            title=str(self.folder),
            options=[],
            state="running" if server.started else "starting",
            updates=server.version,
            rate=(server.version - version) / max(real - then, 1e-9),
            seconds=server.seconds + real - self.begun,
            fraction=server.budget.fraction(server.version, server.samples, server.training_seconds(now)),
            alive=len(server.ledger.active()),
            workers=self.job.config["workers"],
            now=now,
            progress=self.reading.read(),
        )

    def finish(self, seconds: float) -> dict:
        """The last evaluation and checkpoint, the audit and the summary. ``seconds`` is the training time."""
        now, interrupted = self.clock(), self.server.ended == "interrupted"
        if interrupted:
            self.evaluations.abandon()
        elif self.evaluates and self.server.ended != "error":
            self.evaluate(self.server, now)
        if self.saves:
            with self.lock:
                self.checkpoint(self.server, now)
        self.checkpoints.close()
        self.evaluations.close(0.5 if interrupted else None)
        self.node.close()
        self.updates.flush()
        broken = self._audit()
        target = self.job.config["target"]
        summary = summarise(self.folder, self.server, seconds, self.skipped, len(self.failed), target, self.rolled_back)
        if self.tracking:
            self.tracking.close(summary, HURRY_SECONDS if interrupted else TRACKING_SECONDS)
        if broken:
            raise broken
        return summary

    def close(self) -> None:
        """End what still runs beside the run; after ``finish`` nothing does."""
        self.checkpoints.close()
        self.evaluations.close(0.5)
        self.node.close()
        self.updates.flush()
        self.updates.table.close()

    def _audit(self) -> audit.Broken | None:
        """What contradicts itself in the records of a run that ended as runs do."""
        try:
            with self.lock:
                if self.server.ended != "error":
                    audit.check(self.folder, self.server)
        except audit.Broken as broken:
            self.server.ended = "error"
            return broken
