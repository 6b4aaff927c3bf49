"""What asynchrony costs: a parameter server with two workers against two plain loops that exchange nothing.

Both run for ``--seconds`` on the same model, data and batch size, with one thread each, in turn, ``--trials`` times.
Loops and workers take the options ``device`` and ``compute`` alike; where the workers share one GPU, ``--loops 1``
compares them with the one process that would have it otherwise.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asgd import command_line
from asgd.job import Job
from asgd.run import CONF


def build(options: list[str]) -> Job:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Job(OmegaConf.to_container(compose("config", command_line.prepare(options)), resolve=True))


def plain_loop(options: list[str], rank: int, workers: int, seconds: float, start, samples) -> None:
    """Forward, backward and step of ``torch.optim.SGD`` on the same batches; nothing else."""
    torch.set_num_threads(1)
    job = build(options)
    task = job.task()
    module, loss, batches = task.module, job.dataset.loss, job.dataset.batches(rank, workers)
    optimizer = torch.optim.SGD(module.parameters(), lr=job.config["optimizer"]["lr"])
    start.wait()
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        batch = next(batches)
        optimizer.zero_grad()
        value = loss(task.compute.outputs(module, task.placed(batch.inputs)), task.placed(batch.targets))
        value.backward()
        optimizer.step()
        value.item()
        count += len(batch.targets)
    samples.put(count / seconds)


def plain(options: list[str], workers: int, seconds: float) -> float:
    """Samples/s of ``workers`` independent loops side by side."""
    context = multiprocessing.get_context("spawn")
    start, samples = context.Barrier(workers), context.Queue()
    loops = [
        context.Process(target=plain_loop, args=(options, rank, workers, seconds, start, samples))
        for rank in range(1, workers + 1)
    ]
    for loop in loops:
        loop.start()
    total = sum(samples.get() for _ in loops)
    for loop in loops:
        loop.join()
    return total


def asynchronous(options: list[str], workers: int, seconds: float) -> float:
    """Samples/s of the real thing, from its summary."""
    with tempfile.TemporaryDirectory() as folder:
        budget = [
            "budget.epochs=null",
            f"budget.seconds={seconds}",
            f"workers={workers}",
            f"hydra.run.dir={folder}/run",
        ]
        command = [sys.executable, "-m", "asgd.run", *options, *budget]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / "run" / "summary.json").read_text())["samples_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--loops", type=int, help="plain loops side by side; as many as workers where it is not given")
    parser.add_argument("options", nargs="*", help="options of asgd.run, e.g. evaluate.every=0 dataset.batch_size=64")
    words = parser.parse_args()
    ratios = []
    for trial in range(words.trials):
        loops = plain(words.options, words.loops or words.workers, words.seconds)
        run = asynchronous(words.options, words.workers, words.seconds)
        ratios.append(run / loops)
        print(f"trial {trial}: plain {loops:.0f} samples/s, asynchronous {run:.0f}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
