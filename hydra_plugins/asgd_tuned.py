"""Hydra's sweeper ``tuned``: every case gets its best learning rate in as many runs as any other, then is compared."""

import csv
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from asgd import objectives
from asgd.tuning import Search

log = logging.getLogger(__name__)

EDGE = "not settled, it is the smallest or largest tried, and a better one may lie beyond"
BESIDE = "not settled, a value beside it was not tried"

Case = tuple[str, ...]  # the options that make a case, as they are typed


class Tuned(BasicSweeper):
    """See ``conf/hydra/sweeper/tuned.yaml`` for the options and ``asgd.tuning`` for which values are tried."""

    def __init__(self, params, option, start, factor, trials, tuning_seeds, seeds, chosen):
        super().__init__(max_batch_size=None, params=params)
        self.option, self.seeds, self.chosen = option, list(seeds), chosen
        self.search, self.tuning_seeds = (start, factor, trials), list(tuning_seeds)
        self.jobs = {"tuning": 0, "reported": 0}  # so many have been started

    def sweep(self, arguments: list[str]) -> list:
        """The returns of the reported jobs."""
        cases = self.cases(arguments)
        self.validate_batch_is_legal(cases)
        values = self.read(cases) if self.chosen else self.tune(cases)
        jobs = [(*case, f"{self.option}={values[case]:g}", f"seed={seed}") for case in cases for seed in self.seeds]
        return [self.launch("reported", jobs)]

    def cases(self, arguments: list[str]) -> list[Case]:
        words = [*self._parse_config(), *arguments]
        overrides = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(words)
        if own := {each.get_key_element() for each in overrides} & {self.option, "seed"}:
            raise CompactHydraException(
                f"hydra/sweeper=tuned chooses {' and '.join(sorted(own))} itself; "
                "give hydra.sweeper.start, .tuning_seeds or .seeds"
            )
        if both := sorted(set(self.seeds) & set(self.tuning_seeds)):
            raise CompactHydraException(f"hydra.sweeper.seeds={self.seeds}: {both} are tuning_seeds; report others")
        return [tuple(case) for case in self.split_arguments(overrides, None)[0]]

    def tune(self, cases: list[Case]) -> dict[Case, float]:
        """The best value for each case."""
        try:
            searches = {case: Search(*self.search) for case in cases}
        except ValueError as error:
            raise CompactHydraException(f"hydra.sweeper.{error}") from None
        while trials := [(case, place) for case, search in searches.items() for place in search.next()]:
            scores = self.scores([(case, searches[case].value(place)) for case, place in trials])
            for (case, place), score in zip(trials, scores, strict=True):
                searches[case].tell(place, score)
            self.write(searches)
        self.warn(searches)
        return {case: search.value(search.best) for case, search in searches.items()}

    def scores(self, trials: list[tuple[Case, float]]) -> list[tuple[float, ...]]:
        """Of each (case, value): the mean of every objective over the tuning seeds, turned so that less is better."""
        seeds = self.tuning_seeds
        jobs = [(*case, f"{self.option}={value:g}", f"seed={seed}") for case, value in trials for seed in seeds]
        returned = [each if isinstance(each, list | tuple) else [each] for each in self.launch("tuning", jobs)]
        losses = [[sign * number for sign, number in zip(self.signs, each, strict=True)] for each in returned]
        groups = [losses[first : first + len(seeds)] for first in range(0, len(losses), len(seeds))]
        return [tuple(map(fmean, zip(*group, strict=True))) for group in groups]

    @property
    def names(self) -> list[str]:
        """The entries of the summary that count, the first one most."""
        return list(objectives.names(OmegaConf.to_container(self.config).get("objective")))

    @property
    def signs(self) -> list[int]:
        return [-1 if objectives.direction(name) == "maximize" else 1 for name in self.names]

    @property
    def folder(self) -> Path:
        return Path(self.config.hydra.sweep.dir)

    def launch(self, part: str, jobs: Sequence[Sequence[str]]) -> list:
        """What the jobs returned. Their runs are in the folder ``part`` of the sweep."""
        place = str(self.folder / part).replace("\\", "\\\\").replace("'", "\\'")
        (self.folder / part).mkdir(parents=True, exist_ok=True)
        jobs = [[*job, f"hydra.sweep.dir='{place}'"] for job in jobs]
        returns = self.launcher.launch(jobs, initial_job_idx=self.jobs[part])
        self.jobs[part] += len(jobs)
        return [each.return_value for each in returns]

    def write(self, searches: dict[Case, Search]) -> None:
        """``tuning.csv``: one row for each value tried."""
        with open(self.folder / "tuning.csv", "w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["case", self.option, *self.names, "chosen", "settled"])
            for case, search in searches.items():
                for place, score in sorted(search.scores.items()):
                    means = [sign * each for sign, each in zip(self.signs, score, strict=True)]
                    chosen = place == search.best
                    marks = int(chosen), int(chosen and search.settled)
                    table.writerow([shlex.join(case), search.value(place), *means, *marks])

    def warn(self, searches: dict[Case, Search]) -> None:
        for case, search in searches.items():
            where = "" if search.settled else f"; {EDGE if search.at_edge else BESIDE}: give more hydra.sweeper.trials"
            log.log(
                logging.WARNING if where else logging.INFO,
                "%s: %s=%g%s",
                shlex.join(case) or "the only case",
                self.option,
                search.value(search.best),
                where,
            )

    def read(self, cases: list[Case]) -> dict[Case, float]:
        """The values that an earlier sweep chose: for each case, that of the one whose options do not contradict it."""
        try:
            with open(self.chosen, newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["chosen"] == "1"]
            known = [(options(shlex.split(row["case"])), float(row[self.option])) for row in rows]
        except (OSError, KeyError) as error:
            raise CompactHydraException(
                f"hydra.sweeper.chosen={self.chosen}: no values of {self.option} there ({error!r})"
            ) from None
        found = {case: [value for before, value in known if agree(before, options(case))] for case in cases}
        if missing := [shlex.join(case) for case, values in found.items() if len(values) != 1]:
            raise CompactHydraException(
                f"hydra.sweeper.chosen={self.chosen}: no value there for {missing[0]}, or several"
            )
        return {case: values[0] for case, values in found.items()}


def options(words: Sequence[str]) -> dict[str, str]:
    """What each option of a case is; the file that has the sweep is none."""
    pairs = (word.partition("=")[::2] for word in words)
    return {name: value for name, value in pairs if name != "experiment"}


def agree(before: dict[str, str], now: dict[str, str]) -> bool:
    return all(before[name] == now[name] for name in before.keys() & now.keys())
