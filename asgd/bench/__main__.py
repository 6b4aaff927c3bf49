"""``python -m asgd.bench``: the exchange of parameters, measured beside other ways; see docs/performance.md."""

from dataclasses import dataclass

from rich.console import Console

from asgd import words
from asgd.bench import report
from asgd.bench.session import Session
from asgd.bench.ways import WAYS
from asgd.bench.work import shapes_of

USAGE = "python -m asgd.bench [model=resnet50] [workers=1,2,4] [trials=3] [seconds=3] [variants=slot,tutorial,floor]"


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    model: str = words.option("a classifier of torchvision, or a number of parameters", default="resnet50")
    workers: str = words.option("processes that exchange, one or more numbers: 1,2,4", default="1,2,4")
    trials: int = words.option("of each way, in turn with the others", default=3)
    seconds: float = words.option("a trial is measured for", default=3.0)
    variants: str = words.option(f"all that are installed, or some of {','.join(WAYS)}", default="all")
    threads: int | None = words.option("of torch in each process; null: the cores shared among workers", default=None)
    out: str | None = words.option("a JSON file for every trial's figures", default=None)

    def __post_init__(self):
        for name in ("trials", "seconds", "threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: must be more than 0")


def counts(text: str) -> list[int]:
    """``1,2,4`` as numbers of workers."""
    numbers = [int(each) if each.strip().isdecimal() else 0 for each in text.split(",")]
    if not all(numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"workers={text}: different numbers from 1 on, such as 1,2,4")
    return numbers


def chosen(text: str) -> list[str]:
    """``slot,tutorial`` as names of ways, in the table's order."""
    names = [each for each in WAYS if WAYS[each].possible] if text == "all" else [e.strip() for e in text.split(",")]
    for name in names:
        if name in WAYS and not WAYS[name].possible:
            package = WAYS[name].package
            raise ValueError(f"variants={text}: {name} needs {package}; pip install asgd[{package}]")
        if name not in WAYS:
            raise ValueError(f"variants={text}: no {name}{words.closest(name, list(WAYS))}; all, or {','.join(WAYS)}")
    return [name for name in WAYS if name in names]


def main(given: Options) -> None:
    """Measure, show, and write the file if one is wanted."""
    session = Session(
        shapes_of(given.model), counts(given.workers), chosen(given.variants), given.seconds, given.threads
    )
    console = Console()
    with console.status("") as status:
        trials = session.run(given.trials, status.update)
    summary = report.summary(given.model, session.size, trials)
    for table in report.tables(summary):
        console.print(table)
    console.print(report.place(summary))
    if given.out:
        report.write(given.out, summary)


if __name__ == "__main__":
    words.main(Options, main, USAGE, "nothing is written")
