"""What a person sees of a run: a line that is kept up to date on a terminal, plain lines elsewhere."""

import logging
import time

from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_SECONDS = 5.0


class Console(logging.Handler):
    """Log records on standard output, above the progress line where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) if record.levelno > logging.INFO else record.getMessage()
        get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def line(figures: dict) -> str:
    """One line of text; ``figures`` are those of ``Host.figures``."""
    loss = "-" if figures["loss"] is None else f"{figures['loss']:.4f}"
    return (
        f"{figures['updates']} updates  {figures['rate']:.{0 if figures['rate'] >= 10 else 1}f}/s  loss {loss}  "
        f"staleness {figures['staleness']:.2f}  workers {figures['alive']}/{figures['workers']}  "
        f"left {remaining(figures)}"
    )


def remaining(figures: dict) -> str:
    """Time left, m:ss, from the budget used so far."""
    if not figures["fraction"]:
        return "?"
    seconds = round(figures["seconds"] * max(0.0, 1 / figures["fraction"] - 1))
    return f"{seconds // 60}:{seconds % 60:02d}"


class Display:
    """Shows ``figures`` each time ``show`` is called: live on a terminal, else as a line every few seconds."""

    def __init__(self):
        columns = (BarColumn(bar_width=24), TextColumn("{task.percentage:3.0f} %  {task.description}"))
        self.live = get_console().is_terminal
        self.progress = Progress(*columns, console=get_console(), auto_refresh=False, transient=True)
        self.bar = self.progress.add_task("", total=1.0)
        self.shown = time.monotonic()

    def __enter__(self):
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, *_):
        if self.live:
            self.progress.stop()

    def show(self, figures: dict) -> None:
        if self.live:
            self.progress.update(self.bar, completed=min(figures["fraction"], 1.0), description=line(figures))
            self.progress.refresh()
        elif time.monotonic() - self.shown >= PLAIN_SECONDS:
            self.shown = time.monotonic()
            get_console().print(f"{figures['fraction']:4.0%}  {line(figures)}", highlight=False, soft_wrap=True)


def report(summary: dict, folder: str, unit: str = "s") -> str:
    """The end of a run in a few lines; ``unit`` of its seconds."""
    loss = summary["final_loss"]
    unknown = "not evaluated" if summary["final_accuracy"] is None else "validation loss not finite"
    judged = unknown if loss is None else f"validation loss {loss:.4f}"
    judged += _share(summary, "accuracy") + _share(summary, "top_k_accuracy")
    mean, most = summary["staleness_mean"], summary["staleness_max"]
    stale = "no update applied" if mean is None else f"staleness mean {mean:.2f}, max {most}"
    return "\n".join(
        (
            f"ended: {summary['ended']}  {judged}",
            f"{summary['updates']} updates, {summary['samples']} samples in {summary['seconds']:.1f} {unit} "
            f"({summary['updates_per_s']:.3g} updates/s, {summary['samples_per_s']:.0f} samples/s), {stale}",
            f"applied {summary['applied']}, dropped {summary['dropped']}, cancelled {summary['cancelled']}, "
            f"duplicate {summary['duplicate']}, "
            f"late {summary['late']}, not finite {summary['nonfinite']}, failed workers {summary['failed_workers']}",
            f"folder: {folder}",
        )
    )


def _share(summary: dict, name: str) -> str:
    final, words = summary[f"final_{name}"], name.replace("_k_", "-k ")
    return "" if final is None else f", {words} {final:.4f} (best {summary[f'best_{name}']:.4f})"
