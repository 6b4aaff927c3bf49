"""``engine=replay``: the recorded order of arrival of any run once more, which must end at equal parameters.

The parameters depend only on configuration, seed and order of arrival. So the run in ``source`` is repeated row by row
of its ``updates.csv``, kills and resumptions included, and every event and checkpoint is compared with the record.
"""

from pathlib import Path

from asgd.display import Display
from asgd.engines.comparison import Comparison
from asgd.engines.fleet import Fleet, clock_only, computing
from asgd.engines.in_process import InProcessEngine
from asgd.engines.recorder import Recorder
from asgd.engines.tape import Tape
from asgd.job import Job
from asgd.messages import Event, Reply
from asgd.server import Server

SHOW_EVENTS = 100  # between two looks at the run


class ReplayEngine(InProcessEngine):
    """``source`` is the folder of the run to repeat. Gradients: as for ``engine=virtual``.

    ``ended`` is how the replay itself ended: ``interrupted``, or ``budget`` after the whole record. The summary says
    how the run in ``source`` did.
    """

    seconds = "recorded s"

    def __init__(self, source: str | None = None, gradients: str = "auto", at_once: int = 64):
        super().__init__(gradients, at_once)
        if source is None:
            raise ValueError("engine.source is not set: give the folder of the run to repeat")
        self.source = Path(str(source))

    def reserve(self, job: Job) -> None:
        """ValueError unless the source has a whole record, and the machine the memory."""
        self.tape = Tape(self.source)
        super().reserve(job)

    def play(self, job: Job, recorder: Recorder) -> Fleet:
        """Also writes ``replay.json``: what was compared."""
        replay = Replay(job, recorder, self._fleet(job, recorder.server.selective), self.tape)
        replay.run()
        self.ended = "budget" if self.tape.whole else "interrupted"
        recorder.server.end(self.tape.ended if self.tape.whole else "interrupted")
        replay.comparison.report(recorder.folder)
        return replay.fleet

    def _fleet(self, job: Job, selective: bool) -> Fleet:
        """A virtual run without parameters has computed nothing; a real one has."""
        if not self.tape.computed and not job.task("cpu").params.numel():
            return clock_only(job)
        return computing(job, self.gradients, self.at_once, selective, self.tape.coming)


class Replay:
    """One pass over the tape: what is on it happens to the server and to the fleet."""

    def __init__(self, job: Job, recorder: Recorder, fleet: Fleet, tape: Tape):
        self.job, self.recorder, self.fleet, self.tape = job, recorder, fleet, tape
        self.comparison = Comparison(tape)
        recorder.server.observers.append(self.comparison)

    @property
    def server(self) -> Server:
        return self.recorder.server

    def run(self) -> None:
        """To the end of the record, unless it is interrupted."""
        with Display() as display:
            for event in self.tape:
                self.repeat(event)
                if self.tape.at % SHOW_EVENTS == 0:
                    self.recorder.updates.flush()
                    display.show(self.recorder.view)
                if self.recorder.interrupted.is_set():
                    return

    def repeat(self, event: Event) -> None:
        """Let happen what happened, and see whether it comes out as it did."""
        self.recorder.clock.now = event.time_s
        if self.tape.at in self.tape.restarts:
            self.restart(event.time_s)
        for worker, model, leases in getattr(self, event.event)(event):
            if model is not None and self.tape.stopped(worker):
                self.over(worker, leases)
            elif model is not None:
                self.fleet.give(worker, model, leases)
        self.comparison.check(event)

    def join(self, event: Event) -> list[Reply]:
        entry = self.server.ledger.get(event.worker)
        self.fleet.hire(event.worker, self.tape.at, entry.round if entry else 0)
        return self.server.join(event.worker, self.tape.at, event.time_s)

    def push(self, event: Event) -> list[Reply]:
        if event.worker not in self.fleet.held:
            raise self.comparison.departed(event, "that worker has no model here")
        takes = self.server.takes(self.fleet.held[event.worker].version)
        if takes and event.applied == 0 and event.loss is None:
            self.over()
        return self.server.push(self.fleet.take(event.worker, self.server.takes), event.time_s)

    def cancel(self, event: Event) -> list[Reply]:
        return self.server.cancel(self.server.obsolete(), event.time_s)

    def leave(self, event: Event) -> list[Reply]:
        self.fleet.dismiss(event.worker)
        steps = self.server.started and self.server.rule.ready(self.server.ledger.active() - {event.worker})
        if steps and event.version == self.server.version:
            self.over()
        return self.server.leave(event.worker, event.time_s)

    def over(self, stopped: int | None = None, leases: tuple = ()) -> None:
        """The run was over here: by time, by hand, or by a budget that was raised when it was resumed.

        So the one that was ``stopped`` has not got what it is given here.
        """
        self.server.end(self.tape.ended)
        self.server.ledger.working.pop(stopped, None)
        if leases:
            self.server.leases.withdraw(stopped, leases)

    def restart(self, now: float) -> None:
        """The run was killed and resumed: nothing is left but what a checkpoint holds."""
        state, observers, leases = self.server.state_dict(now), self.server.observers, self.server.leases
        self.recorder.server = self.recorder.new_server()
        self.server.parameters.step_on(self.job.server_device)
        if leases:
            self.server.leases.record = leases.record
        self.server.load_state_dict(state)
        self.server.observers = observers
        for worker in list(self.fleet.workers):
            self.fleet.dismiss(worker)
