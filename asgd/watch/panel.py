"""A run as a table for the terminal: the server and its workers, as many of them as there is room for."""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asgd.watch.progress import Progress, Seen, View

AROUND = 8  # lines that are no worker's: title, bar, headings, server, the rest, losses, and two for the log
BAR = 40  # columns
HEADINGS = ("", "updates", "samples/s", "staleness", "compute", "wait", "exchange", "last seen")


def panel(view: View, width: int, height: int) -> RenderableType:
    """The run on so many columns and lines."""
    shown, rest = choose(view.progress.workers, max(1, height - AROUND))
    lines = [
        Text(each, style="dim", overflow="ellipsis", no_wrap=True)
        for each in (others(rest), judgement(view.progress))
        if each
    ]
    return Group(title(view), progress_bar(view, width), table(view, shown), *lines)


def title(view: View) -> Text:
    style = "bold green" if view.state == "running" else "bold" if view.ended else "bold yellow"
    name = " ".join([view.title, *view.options])
    return Text.assemble(Text(view.state, style=style), f"  {name}", overflow="ellipsis", no_wrap=True)


def progress_bar(view: View, width: int) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=1.0, completed=min(view.fraction, 1.0), width=min(BAR, width // 3))
    left = () if view.ended else (f"left {remaining(view)}",)
    row.add_row(bar, f"{view.fraction:.0%}", duration(view.seconds), *left, f"{view.alive}/{view.workers} workers")
    return row


def remaining(view: View) -> str:
    """Time left, from the budget used so far."""
    return duration(view.seconds * max(0.0, 1 / view.fraction - 1)) if view.fraction else "?"


def table(view: View, shown: list[tuple[int, Seen]]) -> Table:
    """The server and the workers that are ``shown``."""
    rows = blank()
    for heading in HEADINGS:
        rows.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    rows.add_row(*server_row(view), style="bold")
    for worker, seen in shown:
        rows.add_row(*worker_row(worker, seen, view), style="" if seen.here or view.ended else "yellow")
    return rows


def server_row(view: View) -> tuple[str, ...]:
    progress = view.progress
    rates = [seen.rate for seen in list(progress.workers.values()) if seen.rate and (seen.here or view.ended)]
    means = decimal(progress.staleness.value), seconds(progress.apply.value)
    return "server", f"{view.updates:,}", number(sum(rates) or None), *means, "", "", moment(progress.time, view)


def worker_row(worker: int, seen: Seen, view: View) -> tuple[str, ...]:
    means = number(seen.rate), decimal(seen.staleness.value), *map(seconds, seen.times())
    return f"worker {worker}", f"{seen.updates:,}", *means, ago(seen, view)


def ago(seen: Seen, view: View) -> str:
    return moment(seen.last, view) + ("" if seen.here or view.ended else " gone")


def moment(last: float | None, view: View) -> str:
    """How long ago, of a run that goes on; when, of one that has ended."""
    if last is None or view.now is None:
        return "-"
    return f"at {duration(last)}" if view.ended else f"{seconds(max(0.0, view.now - last))} ago"


def choose(workers: dict[int, Seen], room: int) -> tuple[list[tuple[int, Seen]], list[Seen]]:
    """(those that are shown, the others): all, where there is room, else those that are gone and then the slowest."""
    everybody = sorted(list(workers.items()))
    if len(everybody) <= room:
        return everybody, []
    everybody.sort(key=lambda pair: (pair[1].here, pair[1].rate or 0.0))
    return everybody[:room], [seen for _, seen in everybody[room:]]


def others(rest: list[Seen]) -> str:
    """A line for the workers that are not shown."""
    if not rest:
        return ""
    rates = sorted(seen.rate or 0.0 for seen in rest)
    return f"and {len(rest)} faster workers, {number(rates[0])} to {number(rates[-1])} samples/s each"


def judgement(progress: Progress) -> str:
    """The training loss and the last evaluation in words."""
    loss = "" if progress.loss.value is None else f"training loss {progress.loss.value:.4f}"
    judged = progress.judged
    if judged is None:
        return loss
    shares = "" if progress.best is None else f", accuracy {decimal(judged.accuracy, 4)} (best {progress.best:.4f})"
    return f"{loss}   validation at version {judged.version}: loss {decimal(judged.loss, 4)}{shares}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def decimal(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def seconds(value: float | None) -> str:
    """``0.0123`` -> ``12 ms``"""
    if value is None:
        return "-"
    if value >= 60:
        return duration(value)
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1e3:.{0 if value >= 0.01 else 1}f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


def duration(value: float) -> str:
    """m:ss, or h:mm:ss"""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def blank() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, collapse_padding=True)


# Several runs

FIGURES = 68  # columns that are no run's name
RUN_HEADINGS = ("run", "state", "used", "updates", "loss", "accuracy", "best", "left")


def several(name: str, views: list[View], width: int, height: int) -> RenderableType:
    """A line for each run; where there is no room for all, those that go on first, then the newest."""
    room = max(1, height - AROUND)
    ranked = sorted(range(len(views)), key=lambda at: (views[at].ended, -at))
    rows, common = blank(), set.intersection(*(set(view.options) for view in views))
    for heading in RUN_HEADINGS:
        rows.add_column(heading, justify="left" if heading in ("run", "state") else "right", no_wrap=True)
    rows.columns[0].max_width = max(12, width - FIGURES)
    for at in sorted(ranked[:room]):
        rows.add_row(*run_row(name, common, views[at]), style="dim" if views[at].ended else "")
    ended = sum(view.ended for view in views)
    title = Text(f"{name}: {len(views)} runs, {ended} ended", style="bold", overflow="ellipsis", no_wrap=True)
    rest = [Text(f"and {len(ranked) - room} more runs", style="dim")] if len(ranked) > room else []
    return Group(title, rows, *rest)


def run_row(root: str, common: set[str], view: View) -> tuple[str, ...]:
    """A run is called by its folder, and by those of its options that not all have in ``common``."""
    judged, best = view.progress.judged, view.progress.best
    own = [option for option in view.options if option not in common]
    name = " ".join([view.title.removeprefix(root).lstrip("/"), *own])
    state = view.state.split()[-1 if view.ended else 0]
    loss, accuracy = (None, None) if judged is None else (judged.loss, judged.accuracy)
    figures = decimal(loss, 4), decimal(accuracy, 4), decimal(best, 4)
    return name, state, f"{view.fraction:.0%}", f"{view.updates:,}", *figures, "" if view.ended else remaining(view)
