"""What asynchrony costs: a parameter server with two workers against two plain loops that exchange nothing.

Both are started once, on the same model, data and batch size, with one thread each. Then they go on in turn,
``--slice`` seconds each, while the other side's processes are suspended: so what else happens on the machine, and
the clock rate of its cores, disturbs both alike. Batches are counted over the time in which a side could run.
Loops and workers take the options ``device`` and ``compute`` alike; where the workers share one GPU, ``--loops 1``
compares them with the one process that would have it otherwise.
"""

import argparse
import multiprocessing
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asgd import command_line
from asgd.job import Job
from asgd.run import CONF

PATIENCE = 120.0  # seconds for a side to get going
WARM = 2  # batches of each loop and worker before anything counts


def build(options: list[str]) -> Job:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Job(OmegaConf.to_container(compose("config", command_line.prepare(options)), resolve=True))


def plain_loop(options: list[str], rank: int, workers: int, batches_done) -> None:
    """Forward, backward and step of ``torch.optim.SGD`` on the same batches, without an end; nothing else."""
    torch.set_num_threads(1)
    job = build(options)
    task = job.task()
    module, loss, batches = task.module, job.dataset.loss, job.dataset.batches(rank, workers)
    optimizer = torch.optim.SGD(module.parameters(), lr=job.config["optimizer"]["lr"])
    for batch in batches:
        optimizer.zero_grad()
        value = loss(task.compute.outputs(module, task.placed(batch.inputs)), task.placed(batch.targets))
        value.backward()
        optimizer.step()
        value.item()
        batches_done.value += 1


class Side:
    """Processes that run only in their turns. ``batches()`` counts what all of them have done."""

    def __init__(self, roots: list[int], batches):
        self.roots, self.batches = list(map(psutil.Process, roots)), batches
        self.seconds, self.done = 0.0, 0

    def processes(self) -> list[psutil.Process]:
        return [each for root in self.roots for each in (root, *root.children(recursive=True))]

    def suspend(self) -> None:
        for process in self.processes():
            process.suspend()

    def resume(self) -> None:
        for process in reversed(self.processes()):
            process.resume()

    def warm(self, batches: int) -> None:
        """Wait for the first batches. RuntimeError if a process ends, which has said why; TimeoutError if none come."""
        deadline = time.monotonic() + PATIENCE
        while self.batches() < batches:
            if any(root.status() == psutil.STATUS_ZOMBIE for root in self.roots):
                raise RuntimeError("a process ended before its first batches; what it has printed says why")
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {batches} batches within {PATIENCE:g} s")
            time.sleep(0.1)
        self.suspend()

    def turn(self, seconds: float) -> None:
        begun, before = time.monotonic(), self.batches()
        self.resume()
        time.sleep(seconds)
        self.suspend()
        self.seconds += time.monotonic() - begun
        self.done += self.batches() - before

    def end(self) -> None:
        with suppress(psutil.NoSuchProcess):
            processes = self.processes()
            for process in processes:
                process.kill()
            psutil.wait_procs(processes)


def loops(options: list[str], count: int) -> Side:
    context = multiprocessing.get_context("spawn")
    done = [context.Value("l", 0) for _ in range(count)]
    started = [context.Process(target=plain_loop, args=(options, i + 1, count, done[i])) for i in range(count)]
    for loop in started:
        loop.start()
    return Side([loop.pid for loop in started], lambda: sum(each.value for each in done))


def run(options: list[str], workers: int, folder: Path) -> Side:
    """The real thing; its table of updates tells how many there were."""
    budget = ["budget.epochs=null", "budget.updates=1000000000", f"workers={workers}", f"hydra.run.dir={folder}/run"]
    command = [sys.executable, "-m", "asgd.run", *options, *budget]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    updates = folder / "run" / "stats" / "ps" / "updates.csv"
    return Side([process.pid], lambda: updates.read_text().count(",push,") if updates.exists() else 0)


def measure(words: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Batches/s of the loops and of the run."""
    sides = []
    try:
        for start in (lambda: loops(words.options, words.loops or words.workers),
                      lambda: run(words.options, words.workers, folder)):  # fmt: skip
            sides.append(start())
            sides[-1].warm(WARM * max(words.workers, words.loops or 0))
        for _ in range(round(words.seconds / words.slice)):
            for side in sides:
                side.turn(words.slice)
    finally:
        for side in sides:
            side.end()
    plain, asynchronous = (side.done / side.seconds for side in sides)
    return plain, asynchronous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each side in a trial")
    parser.add_argument("--slice", type=float, default=2.0, help="seconds of a turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--loops", type=int, help="plain loops side by side; as many as workers where it is not given")
    parser.add_argument("options", nargs="*", help="options of asgd.run, e.g. evaluate.every=0 dataset.batch_size=64")
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ratios = []
    for trial in range(words.trials):
        with tempfile.TemporaryDirectory() as folder:
            plain, asynchronous = measure(words, Path(folder))
        ratios.append(asynchronous / plain)
        print(
            f"trial {trial}: plain {plain:.2f} batches/s, asynchronous {asynchronous:.2f}, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
