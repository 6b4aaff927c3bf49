"""``python -m asgd.trace FOLDER``: the timeline of a run that goes on or is over."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from asgd import words
from asgd.trace.file import NAME, write

USAGE = "python -m asgd.trace FOLDER [start=0] [stop=10] [out=trace.json]"


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    folders: tuple[str, ...] = words.places("a run folder, or several")
    start: float = words.option("seconds of the run's time", default=0.0)
    stop: float = words.option("seconds of the run's time; null: to the end", default=inf)
    out: str | None = words.option(f"the file to write; null: {NAME} in the run folder", default=None)

    def __post_init__(self):
        if not self.folders or (self.out and len(self.folders) > 1):
            raise ValueError(f"{len(self.folders)} run folders: give one, or several without out=")


def main(given: Options) -> None:
    for folder in given.folders:
        path = write(Path(folder), given.out and Path(given.out), given.start, given.stop)
        print(f"{path}: open it at https://ui.perfetto.dev or chrome://tracing")


if __name__ == "__main__":
    words.main(Options, main, USAGE, "nothing was written")
