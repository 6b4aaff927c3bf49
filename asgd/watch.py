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

from asgd.data import words
from asgd.panel import panel, several
from asgd.progress import View
from asgd.watching import Watched, newest, runs

USAGE = "python -m asgd.watch [FOLDER] [once=true] [every=1]"
ROOT = "outputs"
WIDE, TALL = 120, 10_000  # columns and lines, where there is no terminal


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    folder: str | None = words.option(f"a run, or a folder with several; null: the newest run in {ROOT}", default=None)
    once: bool = words.option("show it once, and leave", default=False)
    every: float = words.option("seconds between two looks", default=1.0)

    def __post_init__(self):
        if not self.every > 0:
            raise ValueError(f"every={self.every}: seconds, more than 0")


def main(given: Options) -> None:
    """Show what there is, and follow it on a terminal until it has ended."""
    screen = screen_of(newest(Path(ROOT)) if given.folder is None else Path(given.folder))
    console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=WIDE)
    if given.once or not console.is_terminal:
        picture, _ = screen(console.width, TALL)
        return console.print(picture)
    with suppress(KeyboardInterrupt):  # the way to leave
        follow(screen, console, given.every)


def screen_of(folder: Path) -> Callable[[int, int], tuple[RenderableType, bool]]:
    """What shows (columns, lines) and whether all has ended: a run, or those of a folder. ValueError without any."""
    if (folder / "parameters.json").exists():
        return Single(folder)
    if not runs(folder):
        raise ValueError(f"{folder}: no run there" if folder.exists() else f"{folder}: there is no such folder")
    return Several(folder)


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
    """The screen of the runs of a folder; those that come while it is watched as well."""

    def __init__(self, folder: Path):
        self.folder, self.known, self.views = folder, {}, {}

    def __call__(self, width: int, height: int) -> tuple[RenderableType, bool]:
        for folder in runs(self.folder):
            self._look(folder)
        views = list(self.views.values())
        return several(str(self.folder), views, width, height), all(view.ended for view in views)

    def _look(self, folder: Path) -> None:
        """What has ended is not looked at again, unless it goes on."""
        view: View | None = self.views.get(folder)
        if view is None or not view.ended or not (folder / "summary.json").exists():
            run = self.known.setdefault(folder, Watched(folder))
            self.views[folder] = run.look()
        if self.views[folder].ended:
            self.known.pop(folder, None)


if __name__ == "__main__":
    sys.argv[1:] = [word if "=" in word or word.startswith("-") else f"folder={word}" for word in sys.argv[1:]]
    words.main(Options, main, USAGE, "nothing was changed")
