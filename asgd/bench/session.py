"""All trials of a command, in turn: what disturbs the machine for a while then disturbs every way alike."""

import os
from collections.abc import Callable

from asgd.bench import trial
from asgd.bench.ways import WAYS
from asgd.bench.work import Load

Trials = dict[tuple[str, int], list[trial.Sample]]  # (way, workers; 0: those without) -> in the order of time


class Session:
    """``threads`` of torch in each process; None shares the cores among the workers, as runs do."""

    def __init__(self, shapes, workers: list[int], names: list[str], seconds: float, threads: int | None):
        self.shapes, self.workers, self.names = shapes, workers, names
        self.seconds, self.threads, self.cores = seconds, threads, len(os.sched_getaffinity(0))
        self.size = Load(shapes, 1, 1, seconds).size

    def run(self, trials: int, say: Callable[[str], None]) -> Trials:
        """``say`` is told what is being measured."""
        found: Trials = {each: [] for each in self.order()}
        for number in range(1, trials + 1):
            for name, workers in found:
                say(f"trial {number} of {trials}: {WAYS[name].label}" + (f", {workers} workers" if workers else ""))
                found[name, workers].append(self.once(name, workers))
        return found

    def order(self) -> list[tuple[str, int]]:
        alone = [(name, 0) for name in self.names if WAYS[name].alone]
        with_workers = [name for name in self.names if not WAYS[name].alone]
        return [(n, count) for count in self.workers for n in with_workers if count >= WAYS[n].fewest] + alone

    def once(self, name: str, workers: int) -> trial.Sample:
        way, processes = WAYS[name], max(1, workers)
        load = Load(self.shapes, processes, self.threads_of(name, processes), self.seconds)
        return trial.run(way.server, way.worker, load, way.others)

    def threads_of(self, name: str, processes: int) -> int:
        if WAYS[name].alone:
            return self.cores if WAYS[name].threaded else 1
        return self.threads or max(1, self.cores // processes)
