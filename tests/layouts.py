"""Tiny imitations of data sets in the layouts in which their authors give them away."""

import gzip
import io
import pickle
import struct
import tarfile
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

COLOURS = ["airplane", "automobile", "bird"]


def jpeg(number: int, size: int = 8, kind: str = "JPEG") -> bytes:
    """A picture that no other number has."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def class_folders(folder: Path, classes=("cat", "dog", "owl"), each: int = 4, first: int = 0) -> dict[str, bytes]:
    """``CLASS/NUMBER.JPEG``; returns {"CLASS/NUMBER": content}."""
    contents = {}
    for number in range(first, first + each * len(classes)):
        name = classes[number % len(classes)]
        contents[f"{name}/{number:03d}"] = jpeg(number)
        put(folder / name / f"{number:03d}.JPEG", contents[f"{name}/{number:03d}"])
    return contents


TINY = {"n02124075": "Egyptian cat", "n01443537": "goldfish", "n04067472": "reel"}  # not in alphabetical order


def tiny_imagenet(folder: Path) -> Path:
    """``tiny-imagenet-200`` with three classes."""
    top = folder / "tiny-imagenet-200"
    put(top / "wnids.txt", "\n".join(TINY) + "\n")
    put(top / "words.txt", "".join(f"{wnid}\t{name}\n" for wnid, name in TINY.items()))
    lines = []
    for label, wnid in enumerate(TINY):
        for number in range(3):
            put(top / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", jpeg(10 * label + number))
        put(top / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        put(top / "val" / "images" / f"val_{label}.JPEG", jpeg(100 + label))
        put(top / "test" / "images" / f"test_{label}.JPEG", jpeg(200 + label))
        lines.insert(0, f"val_{label}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    put(top / "val" / "val_annotations.txt", "".join(lines))
    return top


class Python2(pickle._Pickler):
    """Writes texts and bytes alike as Python 2's str, as in the authors' files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        content = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = dispatch[str] = save_str

    def save_global(self, named, name=None):
        """numpy's modules by the names that they had."""
        module = named.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or named.__name__}\n".encode())

    dispatch[type] = dispatch[type(jpeg)] = dispatch[type(len)] = save_global


def python2(value) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def pixels(seed: int, count: int) -> np.ndarray:
    """CIFAR's rows uint8 [count, 3072]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def cifar10(folder: Path, count: int = 2) -> tuple[np.ndarray, list[int]]:
    """``cifar-10-batches-py``, and the same as ``-bin``; returns the training set's rows and labels."""
    old, new = folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin"
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    rows, labels = [pixels(seed, count) for seed in range(6)], [[seed % 3, (seed + 1) % 3] for seed in range(6)]
    for name, data, targets in zip(names, rows, labels, strict=True):
        files = [f"{name}_{number}.png" for number in range(count)]
        batch = {"batch_label": name, "labels": targets, "data": data, "filenames": files}
        put(old / name, python2(batch))
        put(new / f"{name}.bin", np.column_stack([np.uint8(targets), data]).tobytes())
    put(old / "batches.meta", python2({"num_cases_per_batch": count, "label_names": COLOURS, "num_vis": 3072}))
    put(new / "batches.meta.txt", "\n".join(COLOURS) + "\n\n")
    return np.concatenate(rows[:5]), list(chain(*labels[:5]))


def cifar100(folder: Path) -> tuple[np.ndarray, list[int]]:
    """``cifar-100-python``, and the same as ``-binary``; returns the training set's rows and fine labels."""
    old, new = folder / "cifar-100-python", folder / "cifar-100-binary"
    names = ["apple", "aquarium_fish", "baby", "bear"]
    for seed, name in enumerate(("train", "test")):
        data, fine, coarse = pixels(seed, 4), [3, 0, 1, 2], [1, 0, 1, 0]
        batch = {"filenames": list("abcd"), "fine_labels": fine, "coarse_labels": coarse, "data": data}
        put(old / name, python2(batch))
        put(new / f"{name}.bin", np.column_stack([np.uint8(coarse), np.uint8(fine), data]).tobytes())
    put(old / "meta", python2({"fine_label_names": names, "coarse_label_names": ["fish", "fruit"]}))
    put(new / "fine_label_names.txt", "\n".join(names) + "\n")
    return pixels(0, 4), [3, 0, 1, 2]


def idx(folder: Path, zipped: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The four files of MNIST and Fashion-MNIST; returns the training set's images [5, 28, 28] and labels."""
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.array([9, 0, 3, 0, 4], np.uint8)
    for start, order in (("train", slice(None)), ("t10k", slice(None, None, -1))):
        files = {"images-idx3-ubyte": images[order], "labels-idx1-ubyte": labels[order]}
        for name, values in files.items():
            content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape) + values.tobytes()
            path = folder / f"{start}-{name}{'.gz' if zipped else ''}"
            put(path, gzip.compress(content) if zipped else content)
    return images, labels


def tar(folder: Path, path: Path) -> Path:
    """The folder in a compressed tar archive."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path
