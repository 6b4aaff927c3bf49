"""Data sets that come as arrays: CIFAR-10 and -100 in their authors' formats, and the idx files of the MNIST family.

CIFAR's usual files are Python pickles, which could run anything when they are read. Here they may name nothing but the
parts of a numpy array; every other name in them is an error.
"""

import gzip
import io
import pickle
from dataclasses import dataclass

import numpy as np

from asgd.data.trees import Tree, holding, read

PIXELS = 32 * 32 * 3


@dataclass(frozen=True)
class Arrays:
    """``images`` uint8 [n, height, width] (grey) or [n, height, width, 3] (RGB), ``labels`` int64 [n]."""

    layout: str
    images: np.ndarray
    labels: np.ndarray
    names: list[str]


def arrays(tree: Tree, split: str) -> Arrays | None:
    """The data set of this split if the files are of a kind that is known here; ValueError where they are broken."""
    for known in (cifar10, cifar10_binary, cifar100, cifar100_binary, idx):
        try:
            found = known(tree, split)
        except (KeyError, TypeError, AttributeError, IndexError, EOFError, OSError, pickle.UnpicklingError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{tree.name}: looks like {known.__name__}, but does not read as such: {what}") from error
        if found is not None:
            return checked(found, tree.name)
    return None


def checked(found: Arrays, name: str) -> Arrays:
    images, labels = found.images, found.labels
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"{name}: {len(images)} images and {len(labels)} labels; files are missing or damaged")
    if labels.min() < 0 or labels.max() >= len(found.names):
        raise ValueError(f"{name}: labels {labels.min()}..{labels.max()} for {len(found.names)} classes")
    return found


def cifar10(tree: Tree, split: str) -> Arrays | None:
    """``cifar-10-batches-py``."""
    if (folder := holding(tree, "batches.meta")) is None:
        return None
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    batches = [unpickled(needed(tree, folder + name), name) for name in names]
    labels = np.concatenate([np.asarray(batch["labels"], np.int64) for batch in batches])
    meta = unpickled(needed(tree, folder + "batches.meta"), "batches.meta")
    return Arrays("cifar10", planes(np.concatenate([batch["data"] for batch in batches])), labels, meta["label_names"])


def cifar100(tree: Tree, split: str) -> Arrays | None:
    """``cifar-100-python``, with its 100 fine labels."""
    if (folder := holding(tree, "meta", "train", "test")) is None:
        return None
    name = "train" if split == "train" else "test"
    batch = unpickled(needed(tree, folder + name), name)
    meta = unpickled(needed(tree, folder + "meta"), "meta")
    labels = np.asarray(batch["fine_labels"], np.int64)
    return Arrays("cifar100", planes(batch["data"]), labels, meta["fine_label_names"])


def cifar10_binary(tree: Tree, split: str) -> Arrays | None:
    """``cifar-10-batches-bin``: records of one byte label and 3072 bytes of pixels."""
    if (folder := holding(tree, "batches.meta.txt")) is None:
        return None
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if split == "train" else ["test_batch.bin"]
    records = np.concatenate([binary(needed(tree, folder + name), 1, name) for name in names])
    classes = needed(tree, folder + "batches.meta.txt").decode().split()
    return Arrays("cifar10", planes(records[:, 1:]), records[:, 0].astype(np.int64), classes)


def cifar100_binary(tree: Tree, split: str) -> Arrays | None:
    """``cifar-100-binary``: records of a coarse label, a fine label and 3072 bytes of pixels."""
    if (folder := holding(tree, "fine_label_names.txt")) is None:
        return None
    name = "train.bin" if split == "train" else "test.bin"
    records = binary(needed(tree, folder + name), 2, name)
    classes = needed(tree, folder + "fine_label_names.txt").decode().split()
    return Arrays("cifar100", planes(records[:, 2:]), records[:, 1].astype(np.int64), classes)


def idx(tree: Tree, split: str) -> Arrays | None:
    """``train-images-idx3-ubyte`` and its like, plain or ``.gz``; the files do not name their classes: 0, 1, 2 ..."""
    start = "train" if split == "train" else "t10k"
    spellings = [(mark, end) for mark in ("-", ".") for end in ("", ".gz")]
    for mark, end in spellings:
        images, labels = f"{start}-images{mark}idx3-ubyte{end}", f"{start}-labels{mark}idx1-ubyte{end}"
        if (folder := holding(tree, images)) is not None:
            targets = idx_array(needed(tree, folder + labels), 1, labels).astype(np.int64)
            names = [str(label) for label in range(int(targets.max(initial=0)) + 1)]
            return Arrays("idx", idx_array(needed(tree, folder + images), 3, images), targets, names)
    return None


def needed(tree: Tree, path: str) -> bytes:
    if path not in tree.files:
        raise ValueError(f"{tree.name}: {path} is missing beside the others; unpack or download the whole data set")
    return read(tree, path)


def idx_array(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8, dimensions, each dimension as big-endian int32, and the values."""
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{name}: is no idx file of bytes with {dimensions} dimensions")
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(values) != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{name}: {len(values)} values for shape {shape.tolist()}; truncated?")
    return values.reshape(shape)


def binary(content: bytes, labels: int, name: str) -> np.ndarray:
    """Records uint8 [n, labels + 3072]."""
    if len(content) % (labels + PIXELS):
        raise ValueError(f"{name}: {len(content)} bytes are no whole records of {labels + PIXELS}; truncated?")
    return np.frombuffer(content, np.uint8).reshape(-1, labels + PIXELS)


def planes(pixels: np.ndarray) -> np.ndarray:
    """CIFAR's rows [n, 3072] of red, green and blue planes -> [n, 32, 32, 3]."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise ValueError(f"pixels are {pixels.dtype} {list(pixels.shape)}, must be uint8 [n, {PIXELS}]")
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def unpickled(content: bytes, name: str) -> dict:
    """A pickle of numbers, texts, lists, dicts and numpy arrays. ValueError for anything else in it."""
    try:
        return _OnlyArrays(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{name}: {error}") from error


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        """As the authors' files (written by Python 2) and newer copies name the parts of an array."""
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # the same by a public way
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no part of an array; get the original files")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")
