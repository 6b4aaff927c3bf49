"""What a person sees of a run: a table that is kept up to date on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Callable
from math import inf

from rich import get_console
from rich.live import Live

from asgd.watch.panel import panel, remaining
from asgd.watch.progress import View

log = logging.getLogger(__name__)


class Console(logging.Handler):
    """Log records on standard output, above the progress line where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) if record.levelno > logging.INFO else record.getMessage()
        get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def line(view: View) -> str:
    """One line of text."""
    progress, loss = view.progress, view.progress.loss.value
    judged = progress.judged
    accuracy = "" if judged is None or judged.accuracy is None else f"  accuracy {judged.accuracy:.4f}"
    return (
        f"{view.updates} updates  {view.rate:.{0 if view.rate >= 10 else 1}f}/s  "
        f"loss {'-' if loss is None else f'{loss:.4f}'}{accuracy}  staleness {progress.staleness.value or 0:.2f}  "
        f"workers {view.alive}/{view.workers}  left {remaining(view)}"
    )


class Display:
    """Shows a run each time ``show`` is called and one is due: live on a terminal, else as a line every few seconds.

    It takes at most one part in ``PAUSE`` of one core, and what goes wrong in it ends the display and not the run.
    """

    PAUSE = 100  # times as long as a look took, before the next one
    LIVE, PLAIN = 0.5, 5.0  # seconds between two looks, at least

    def __init__(self):
        self.live = get_console().is_terminal
        self.period = self.LIVE if self.live else self.PLAIN
        self.screen = Live(console=get_console(), auto_refresh=False, transient=True) if self.live else None
        self.pause = 0  # after the first look, which takes many times as long as others
        self.due = time.monotonic() + (0.0 if self.live else self.period)

    def __enter__(self):
        if self.live:
            self.screen.start()
        return self

    def __exit__(self, *_):
        if self.live:
            self._guarded(self.screen.stop)

    def show(self, look: Callable[[], View]) -> None:
        """``look`` is called where it is time."""
        if time.monotonic() >= self.due:
            begun = time.thread_time()
            self._guarded(lambda: self._draw(look()))
            pause, self.pause = max(self.period, self.pause * (time.thread_time() - begun)), self.PAUSE
            self.due = max(self.due, time.monotonic() + pause)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.due = inf
            log.warning("the display has ended, the run goes on: %s", error)

    def _draw(self, view: View) -> None:
        if self.live:
            width, height = get_console().size
            self.screen.update(panel(view, width, height), refresh=True)
        else:
            get_console().print(f"{view.fraction:4.0%}  {line(view)}", highlight=False, soft_wrap=True)


def report(summary: dict, folder: str, unit: str = "s") -> str:
    """The end of a run in a few lines; ``unit`` of its seconds."""
    loss = summary["final_loss"]
    unknown = "not evaluated" if summary["final_accuracy"] is None else "validation loss not finite"
    judged = unknown if loss is None else f"validation loss {loss:.4f}"
    judged += _share(summary, "accuracy") + _share(summary, "top_k_accuracy")
    mean, most = summary["staleness_mean"], summary["staleness_max"]
    stale = "no update applied" if mean is None else f"staleness mean {mean:.2f}, max {most}"
    seldom = ("outdated", "oversized", "rolled_back")
    more = "".join(f", {name.replace('_', ' ')} {summary[name]}" for name in seldom if summary.get(name))
    return "\n".join(
        (
            f"ended: {summary['ended']}  {judged}",
            f"{summary['updates']} updates, {summary['samples']} samples in {summary['seconds']:.1f} {unit} "
            f"({summary['updates_per_s']:.3g} updates/s, {summary['samples_per_s']:.0f} samples/s), {stale}",
            f"applied {summary['applied']}, dropped {summary['dropped']}, cancelled {summary['cancelled']}, "
            f"duplicate {summary['duplicate']}, late {summary['late']}, "
            f"not finite {summary['nonfinite']}, failed workers {summary['failed_workers']}{more}",
            f"folder: {folder}",
        )
    )


def _share(summary: dict, name: str) -> str:
    final, words = summary[f"final_{name}"], name.replace("_k_", "-k ")
    return "" if final is None else f", {words} {final:.4f} (best {summary[f'best_{name}']:.4f})"
