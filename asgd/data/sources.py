"""Data sets as they are downloaded, behind one face: keys, labels, class names, and each picture's bytes.

Known are folders (or a zip) with one subfolder of pictures per class, Tiny-ImageNet's layout, flat folders with a file
that says which picture is of which class, and the arrays of ``asgd.data.arrays``.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from asgd.data import downloads, pictures
from asgd.data.arrays import Arrays, arrays
from asgd.data.trees import Tar, Tree, read, tree

MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
Picture = tuple[str, bytes]  # suffix and content of an encoded image


@dataclass(frozen=True)
class Source:
    """A labelled data set; sample i has ``keys[i]``, ``labels[i]`` and ``picture(i)``.

    ``sizes`` are the bytes of the pictures' files, empty for arrays, of which ``content`` is a checksum. ``check(i)``
    raises ValueError for what is no picture. ``notes`` are for the user to read.
    """

    layout: str
    classes: list[str]
    keys: list[str]
    labels: list[int]
    picture: Callable[[int], Picture]
    check: Callable[[int], None]
    sizes: list[int] = field(default_factory=list)
    content: str = ""
    notes: list[str] = field(default_factory=list)

    def checksum(self) -> str:
        """Of everything that decides what is written, but the bytes of picture files."""
        digest = hashlib.sha256(json.dumps([self.classes, self.content]).encode())
        for line in self._lines():
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _lines(self) -> Iterator[str]:
        for number, key in enumerate(self.keys):
            yield f"{key}\n{self.labels[number]} {self.sizes[number] if self.sizes else ''}\n"


def find(source: str, split: str, classes: str | None, mapping: str | None, root: str | None, download: bool) -> Source:
    """The data set that is there; ValueError for what is wrong with it. Reads no pictures."""
    names = None if classes is None else class_names(classes)
    if source.startswith(downloads.SCHEME):
        folder, known = downloads.fetch(source.removeprefix(downloads.SCHEME), root, download)
        source, names = str(folder), names or known
    files = tree(source)
    if (found := arrays(files, split)) is not None:
        return from_arrays(found, names)
    if isinstance(files, Tar):
        raise ValueError(f"source={source}: pictures are not read out of tar archives; unpack it, or give a zip")
    return from_files(files, pictures.listed(files, split, names, mapping))


def class_names(classes: str) -> list[str]:
    """The names in label order from a JSON list, a text file with one name a line, or ``a,b,c``."""
    path = Path(classes).expanduser()
    if path.is_file():
        text = path.read_text()
        names = json.loads(text) if path.suffix == ".json" else text.split("\n")
        names = [name.strip() if isinstance(name, str) else name for name in names]
        names = [name for name in names if name != ""]
    elif "," in classes:
        names = [name.strip() for name in classes.split(",")]
    else:
        raise ValueError(f"classes={classes}: no such file; give a file with the names in label order, or a,b,c")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"classes={classes}: must be different names, one for each label, in label order")
    return names


def from_arrays(found: Arrays, names: list[str] | None) -> Source:
    """Pictures as PNG, which loses nothing; keys are the places in the data set."""
    if names is not None and len(names) < len(found.names):
        raise ValueError(f"{len(names)} class names for a data set of {len(found.names)} classes; correct classes=")
    keys = [f"{number:05d}" for number in range(len(found.images))]
    content = hashlib.sha256(repr(found.images.shape).encode() + found.images.tobytes()).hexdigest()
    picture, labels = partial(encoded, found.images), found.labels.tolist()
    return Source(found.layout, names or found.names, keys, labels, picture, check=lambda number: None, content=content)


def encoded(images: np.ndarray, number: int) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(images[number]).save(buffer, "PNG")
    return "png", buffer.getvalue()


def from_files(files: Tree, found: pictures.Listing) -> Source:
    """Pictures as they are; keys are their class and file name."""
    sizes = [files.files[path] for path in found.paths]
    picture, check = partial(stored, files, found.paths), partial(decodes, files, found.paths)
    return Source("pictures", found.classes, found.keys, found.labels, picture, check, sizes, "", found.notes)


def stored(files: Tree, paths: list[str], number: int) -> Picture:
    """The file itself; its bytes, not its name, decide on the suffix (one of ImageNet's .JPEG is a PNG)."""
    try:
        content = read(files, paths[number])
    except Exception as error:  # of the disk, or of zip in many kinds
        raise ValueError(f"{files.name}: {paths[number]}: cannot be read: {error}") from error
    for magic, suffix in MAGIC.items():
        if content.startswith(magic):
            return suffix, content
    raise ValueError(f"{files.name}: {paths[number]}: is neither JPEG nor PNG; convert or remove it")


def decodes(files: Tree, paths: list[str], number: int) -> None:
    """ValueError unless the header of the picture can be read."""
    try:
        with files.open(paths[number]) as file, Image.open(file, formats=("JPEG", "PNG")) as image:
            image.size  # noqa: B018 - opening has read the header
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken input
        raise ValueError(f"{files.name}: {paths[number]}: not a JPEG or PNG that can be read") from error
