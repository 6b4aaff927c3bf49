"""Small WebDataset shards of generated images whose pixels tell which sample they are."""

import io
import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from asgd.data.augment import CentreCrop, Normalise
from asgd.data.shards import Shards

SIZE = 4
CLASSES = 10
Files = dict[str, bytes]  # suffix -> content


def encode(number: int, kind: str = "PNG", size: int = SIZE) -> bytes:
    """A one-coloured image; as PNG its red * 256 + green is ``number``."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (number // 256, number % 256, 0)).save(buffer, kind)
    return buffer.getvalue()


def good(number: int) -> Files:
    """A whole sample."""
    return {"png": encode(number), "cls": str(number % CLASSES).encode()}


def write(path: Path, samples: Iterable[tuple[str, Files]], mode: str = "w") -> str:
    """Write one shard of (key, files)."""
    with tarfile.open(path, mode) as archive:
        for key, files in samples:
            for suffix, content in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(path)


def write_set(folder: Path, name: str, sizes: Iterable[int]) -> list[str]:
    """Shards with so many samples each, numbered on from 0 over the whole set."""
    paths, first = [], 0
    for shard, size in enumerate(sizes):
        samples = ((f"{number:04d}", good(number)) for number in range(first, first + size))
        paths.append(write(folder / f"{name}-{shard:04d}.tar", samples))
        first += size
    return paths


def dataset(url, val_url=None, **changes) -> Shards:
    """A data set whose inputs are the pixel values 0..255."""
    parts = {"augment": CentreCrop(SIZE), "transform": CentreCrop(SIZE), "normalise": Normalise([0] * 3, [1 / 255] * 3)}
    options = {"batch_size": 2, "classes": CLASSES, "size": SIZE, "shape": [3, SIZE, SIZE], "shuffle": 0}
    loss = partial(torch.nn.functional.cross_entropy)
    return Shards(url, url if val_url is None else val_url, loss=loss, **parts | options | changes)


def numbers(batch) -> list[int]:
    """Which samples a batch holds."""
    return [round(float(each[0, 0, 0])) * 256 + round(float(each[1, 0, 0])) for each in batch.inputs]
