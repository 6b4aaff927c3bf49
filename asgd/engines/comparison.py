"""What a replay is compared with: every event and every checkpoint of the run that it repeats."""

import logging
from pathlib import Path

import torch

from asgd import checkpoints
from asgd.engines.tape import Tape
from asgd.messages import Event
from asgd.records import write_json
from asgd.server import Server

log = logging.getLogger(__name__)

DECISIONS = ("event", "worker", "round", "version", "staleness", "applied", "samples")


class Departed(RuntimeError):
    """The replay does not do what the record says."""


class Comparison:
    """An observer of the server that repeats what is on the tape."""

    def __init__(self, tape: Tape):
        self.tape = tape
        self.checkpoints = {int(path.stem): path for path in (tape.folder / "checkpoints").glob("*.pt")}
        self.differences: dict[int, float] = {}  # of the parameters, by version
        self.rounding: int | None = None  # the first event whose loss differs in the last bits
        self.observed: Event | None = None

    def event(self, event: Event) -> None:
        self.observed = event

    def version(self, server: Server, now: float) -> None:
        if server.version in self.checkpoints:
            recorded, here = self.recorded(server.version), server.snapshot().params
            if recorded is None:
                return
            difference = 0.0 if torch.equal(recorded, here) else (recorded - here).abs().max().item()
            self.differences[server.version] = difference
            if not torch.allclose(recorded, here, rtol=1e-3, atol=1e-5):
                raise self.departed(f"parameters of version {server.version}", f"{difference:.3g} off")

    def recorded(self, version: int) -> torch.Tensor | None:
        """[P] of the source's checkpoint; None if it cannot be read."""
        try:
            state = checkpoints.read(self.checkpoints[version])
            return state["server"]["parameters"]["params"]
        except Exception as error:  # torn, or foreign
            log.warning("%s cannot be read (%s)", self.checkpoints[version], str(error).partition("\n")[0])
            return None

    def check(self, recorded: Event) -> None:
        """Departed unless what has been observed since the last call is the ``recorded`` event."""
        here, self.observed = self.observed, None
        if here is None or any(getattr(here, name) != getattr(recorded, name) for name in DECISIONS):
            raise self.departed(recorded, here)
        if self.rounding is None and str(here.loss) != str(recorded.loss):  # nan is equal to nan
            self.rounding = self.tape.at

    def departed(self, recorded: object, here: object) -> Departed:
        where = f"event {self.tape.at} of {self.tape.folder}"
        return Departed(f"the replay departs at {where}:\n  {recorded}\n  here: {here}")

    def report(self, folder: Path) -> None:
        """Say how equal the replay was, in ``replay.json`` and in the log."""
        largest = max(self.differences.values(), default=None)
        found = {"source": str(self.tape.folder), "events": self.tape.at + 1, "of_events": len(self.tape.events)}
        found |= {"first_rounding": self.rounding}
        found |= {"compared_versions": sorted(self.differences), "largest_difference": largest}
        write_json(folder / "replay.json", found | {"equal": None if largest is None else largest == 0})
        log.info(verdict(found))


def verdict(found: dict) -> str:
    """The result of a replay in words."""
    events, largest = f"{found['events']} events as recorded", found["largest_difference"]
    if found["events"] < found["of_events"]:
        events += f" of {found['of_events']}, then it was stopped"
    if largest is None:
        so_far = "so far " * (found["events"] < found["of_events"])
        return f"replay: {events}; {so_far}the source has no checkpoint to compare parameters with"
    versions = ", ".join(map(str, found["compared_versions"]))
    if largest == 0:
        return f"replay: {events}, parameters equal bit for bit at versions {versions}"
    return (
        f"replay: {events}, parameters differ by at most {largest:.3g} at versions {versions}; "
        f"losses differ from event {found['first_rounding']} on (another host, thread count or library?)"
    )
