"""``python -m asgd.watch [FOLDER]``: a run, or all runs of a folder, from their files; while they go on and after."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from asgd import words
from asgd.results.folders import runs
from asgd.watch.panel import panel, several
from asgd.watch.progress import View
from asgd.watch.watched import Watched, newest

USAGE = "python -m asgd.watch [FOLDER] [once=true] [every=1]"
ROOT = "outputs"
WIDE, TALL = 120, 10_000  # columns and lines, where there is no terminal


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    folders: tuple[str, ...] = words.places(f"a run, or folders with several; none: the newest run in {ROOT}")
    once: bool = words.option("show it once, and leave", default=False)
    every: float = words.option("seconds between two looks", default=1.0)

    def __post_init__(self):
        if not self.every > 0:
            raise ValueError(f"every={self.every}: seconds, more than 0")


def main(given: Options) -> None:
    """Show what there is, and follow it on a terminal until it has ended."""
    screen = screen_of(given.folders or (str(newest(ROOT)),))
    console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=WIDE)
    if given.once or not console.is_terminal:
        picture, _ = screen(console.width, TALL)
        return console.print(picture)
    with suppress(KeyboardInterrupt):  # the way to leave
        follow(screen, console, given.every)


def screen_of(folders: tuple[str, ...]) -> Callable[[int, int], tuple[RenderableType, bool]]:
    """What shows (columns, lines) and whether all has ended: a run, or those of folders. ValueError without any."""
    if len(folders) == 1 and (Path(folders[0]) / "parameters.json").exists():
        return Single(Path(folders[0]))
    if not any(runs(*folders)):
        raise ValueError(f"{' '.join(folders)}: no run there")
    return Several(folders)


def follow(screen: Callable, console: Console, every: float) -> None:
    """Look each so many seconds. The last picture stays."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            picture, ended = screen(console.width, console.height)
            live.update(picture, refresh=True)
            if ended:
                return
            time.sleep(every)


class Single:
    """The screen of one run."""

    def __init__(self, folder: Path):
        self.run = Watched(folder)

    def __call__(self, width: int, height: int) -> tuple[RenderableType, bool]:
        view = self.run.look()
        return panel(view, width, height), view.ended


class Several:
    """The screen of the runs in folders; those that come while it is watched as well."""

    def __init__(self, folders: tuple[str, ...]):
        self.folders, self.going_on, self.views = folders, {}, {}

    def __call__(self, width: int, height: int) -> tuple[RenderableType, bool]:
        for folder in runs(*self.folders):
            self._look(folder)
        views = list(self.views.values())
        return several(" ".join(self.folders), views, width, height), all(view.ended for view in views)

    def _look(self, folder: Path) -> None:
        """What has ended is not looked at again, unless it goes on."""
        view: View | None = self.views.get(folder)
        if view is None or not view.ended or not (folder / "summary.json").exists():
            view = self.views[folder] = self.going_on.setdefault(folder, Watched(folder)).look()
        if view.ended:
            self.going_on.pop(folder, None)


if __name__ == "__main__":
    words.main(Options, main, USAGE, "nothing was changed")
