"""Tracking: an observer that takes a point now and then, and a thread that hands them to trackers."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from asgd.messages import Event
from asgd.trackers import Point, Tracker
from asgd.watch.progress import Mean

log = logging.getLogger(__name__)


class Tracking:
    """A point each ``every`` updates, and one for each evaluation.

    At most ``PENDING`` points wait for the trackers; what comes then is left out, so that a slow one holds up nobody.
    A tracker that fails is reported, once, and given nothing any more.
    """

    PENDING = 1000

    def __init__(self, trackers: list[Tracker], every: int, open: Callable[[Tracker], None]):
        self.trackers, self.every, self.open = list(trackers), every, open
        self.loss, self.staleness = Mean(), Mean()
        self.mark: tuple[float, int] | None = None  # time and samples of the last point
        self.left_out = 0
        self.pending: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self.thread.start()

    # The run's side

    def event(self, event: Event) -> None:
        if event.event == "push" and event.applied:
            self.loss.add(event.loss)
            self.staleness.add(event.staleness)

    def version(self, server, now: float) -> None:
        if server.version % self.every == 0:
            figures = {"train/loss": self.loss.value, "train/staleness": self.staleness.value}
            figures |= {"train/learning_rate": server.parameters.rate, "train/samples": server.samples}
            figures["train/samples_per_s"] = self._rate(now, server.samples)
            self._put(Point(server.version, now, present(figures)))

    def _rate(self, now: float, samples: int) -> float | None:
        """Since the last point; None where there is none, or no time has passed."""
        (then, before), self.mark = self.mark or (now, samples), (now, samples)
        return (samples - before) / (now - then) if now > then else None

    def evaluation(self, row: tuple) -> None:
        """A row of ``evaluation.csv``."""
        now, version, _, _, loss, accuracy, top_k = row
        names = ("validation/loss", "validation/accuracy", "validation/top_k_accuracy")
        self._put(Point(version, now, present(dict(zip(names, (loss, accuracy, top_k), strict=True)))))

    def _put(self, point: Point) -> None:
        if self.pending.qsize() < self.PENDING:
            self.pending.put(point)
        else:
            self.left_out += 1

    def close(self, summary: dict, seconds: float) -> None:
        """Hand over what is left and the summary, for at most so many ``seconds``."""
        if self.left_out:
            log.warning("%d points were left out, the trackers were behind; try a larger track.every", self.left_out)
        self.pending.put(summary)
        self.thread.join(seconds)
        if self.thread.is_alive():
            log.warning("the trackers %s have not ended within %g s", self._names(), seconds)

    # The trackers' side

    def _run(self) -> None:
        self._each(self.open)
        while True:
            points, summary = self._gathered()
            if points:
                self._each(lambda tracker: tracker.write(points))  # noqa: B023 - called at once
            if summary is not None:
                return self._each(lambda tracker: tracker.close(summary))  # noqa: B023

    def _gathered(self) -> tuple[list[Point], dict | None]:
        """All that is pending, at least one; the summary comes last."""
        found = [self.pending.get()]
        while not self.pending.empty():
            found.append(self.pending.get())
        summary = found.pop() if isinstance(found[-1], dict) else None
        return found, summary

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                action(tracker)
            except Exception as error:
                self.trackers.remove(tracker)
                log.error("%s has failed and gets nothing any more, the run goes on: %s", tracker.option, error)

    def _names(self) -> str:
        return ", ".join(tracker.option for tracker in self.trackers)


def present(figures: dict) -> dict:
    return {name: value for name, value in figures.items() if value is not None}


def opener(folder: Path, parameters: dict, now: float, version: int) -> Callable[[Tracker], None]:
    """Opens trackers for the run in ``folder``, which is at ``version`` and whose time is ``now`` at this moment."""
    begun = time.time() - now
    return lambda tracker: tracker.open(folder, parameters, begun, version)
