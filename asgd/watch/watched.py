"""A run folder at one moment, from its files alone: how far the run is, and whether it still goes on."""

import json
import time
from pathlib import Path

from asgd.budget import Budget
from asgd.results.folders import SILENT_SECONDS, runs
from asgd.watch.progress import Reading, View
from asgd.watch.tails import Tail

NOT_REAL = ("VirtualEngine", "ReplayEngine")
CLAIMED = {"config": {"workers": 0}, "overrides": []}  # of a run that is just beginning
RECENT = 1 << 16  # bytes


class Watched:
    """A run that may be going on, have ended or have been killed; ``look`` again and again."""

    def __init__(self, folder: Path):
        self.folder, self.reading = folder, Reading(folder, events=True)
        self.system, self.elapsed = Tail(folder / "stats/ps/system_stats.csv", RECENT), 0.0
        self.mark: tuple[float, int] | None = None  # when it was looked at last, and the version then

    def look(self) -> View:
        told, node = self._json("parameters.json") or CLAIMED, self._json("stats/ps/parameters.json") or {}
        summary, progress = self._json("summary.json"), self.reading.read()
        for row in self.system.rows():
            self.elapsed = row.time_s
        here, workers = progress.here, told["config"]["workers"]
        seconds = max(0.0, self.elapsed - (progress.begin or 0.0))
        rate = self._rate(progress.version, seconds)
        if summary:
            here = here if workers == "auto" else workers - summary["failed_workers"]
            rate, seconds = summary["updates_per_s"], summary["seconds"]
        return View(
            title=str(self.folder),
            options=told["overrides"],
            state=self._state(summary),
            updates=progress.version,
            rate=rate,
            seconds=seconds,
            fraction=self._fraction(node, progress, summary),
            alive=here,
            workers=workers,
            now=progress.time if summary else self._now(told["config"], progress.time),
            progress=progress,
            ended=bool(summary),
        )

    def _json(self, name: str) -> dict | None:
        try:
            return json.loads((self.folder / name).read_text())
        except (OSError, ValueError):  # not there, or being claimed
            return None

    def _rate(self, version: int, seconds: float) -> float:
        """Updates per second since the last look; at first, of all the ``seconds`` so far."""
        now = time.monotonic()
        then, before = self.mark or (now - seconds, 0)
        self.mark = now, version
        return (version - before) / (now - then) if now > then else 0.0

    def _now(self, config: dict, last: float | None) -> float | None:
        """The run's time at this moment, from that of its last event. Virtual time stands still between two events."""
        if last is None or config["engine"]["_target_"].endswith(NOT_REAL):
            return last
        return last + max(0.0, time.time() - self.reading.updates.path.stat().st_mtime)

    def _fraction(self, node: dict, progress, summary: dict | None) -> float:
        """How much of the budget is used."""
        if summary and summary["ended"] == "budget":
            return 1.0
        if not node.get("limits"):
            return 0.0
        seconds = 0.0 if progress.begin is None else progress.time - progress.begin
        return Budget(**node["limits"]).fraction(progress.version, progress.samples, seconds)

    def _state(self, summary: dict | None) -> str:
        """running, or how and when it ended, or for how long there has been no sign of it."""
        if summary:
            return f"ended: {summary['ended']}"
        since = time.time() - self.last_sign()
        if since < SILENT_SECONDS:
            return "starting" if self.reading.progress.begin is None else "running"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.last_sign()))
        return f"silent since {when}"

    def last_sign(self) -> float:
        """When the server last wrote, in seconds of the calendar."""
        names = ("parameters.json", "stats/ps/system_stats.csv", "stats/ps/updates.csv")
        return max((self.folder / name).stat().st_mtime for name in names if (self.folder / name).exists())


def newest(root: str) -> Path:
    """The run under ``root`` that was started last. ValueError without any."""
    found = list(runs(root)) if Path(root).is_dir() else []
    if not found:
        raise ValueError(f"{root}: no run there; give the folder of one")
    return max(found, key=lambda folder: (folder / "parameters.json").stat().st_mtime)
