"""From the files of a sample to pixels and a label; whatever is wrong is a ``DataError`` naming shard and key."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from asgd.data import jpeg
from asgd.data.errors import DataError
from asgd.data.tar import IMAGES, LABEL, Sample

Augment = Callable[[bytes, np.random.Generator], np.ndarray]

MOST = 178_956_970  # pixels: where Pillow stops too; a broken header must not ask for all of the memory
COLOURS = {1: ("GRAY", "L"), 3: ("RGB", "RGB")}  # by number of channels: simplejpeg's name, Pillow's name


class Undecodable(ValueError):
    """An image is broken, or of a kind that is not supported."""


def label(sample: Sample, classes: int) -> int:
    """The integer in ``KEY.cls``, in 0..classes-1."""
    text = _only(sample, (LABEL,)).strip()
    if not text.isdigit():
        raise broken(sample, f"its label {text[:40]!r} is not an integer of 0..{classes - 1}")
    if int(text) >= classes:
        raise broken(sample, f"its label {int(text)} is not in 0..{classes - 1}; does dataset.classes={classes} fit?")
    return int(text)


def picture(sample: Sample) -> bytes:
    """The only image file of the sample, undecoded."""
    return _only(sample, IMAGES)


def decoded(sample: Sample, augment: Augment, generator: np.random.Generator) -> np.ndarray:
    """The augmented picture, uint8 [channels, height, width]."""
    content = picture(sample)
    try:
        return augment(content, generator)
    except (Undecodable, OSError) as error:  # anything else is a mistake in the augmentation
        raise broken(sample, f"its image does not decode: {error}") from error


def broken(sample: Sample, cause: str) -> DataError:
    """The error that names shard and key."""
    return DataError(f"{sample.shard}: sample {sample.key}: {cause}")


def size(content: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image, in pixels, as stored: an EXIF orientation is not applied."""
    with _undecodable():
        header = jpeg.header(content)
        return (header.width, header.height) if header else _open(content).size


def pixels(content: bytes, channels: int = 3, rows: int | None = None, factor: int = 1) -> np.ndarray:
    """A JPEG or PNG as uint8 [height, width, channels], of channels 1 (grey) or 3 (RGB) whatever it is stored as.

    With ``rows`` the image may end below that row, if that saves time. With ``factor`` 2, 4 or 8 most JPEGs are so
    many times smaller, rounded up; other images less, or not at all. ``Undecodable`` if it is broken.
    """
    with _undecodable():
        header = jpeg.header(content)
        if header is None:
            return _converted(_open(content), channels)
        if header.width * header.height > MOST:
            raise ValueError(f"{header.width} x {header.height} pixels, more than {MOST}")
        rows = header.height if rows is None else rows
        if header.colour_space in ("CMYK", "YCCK"):  # stored inverted, as by Photoshop
            ink = 255 - jpeg.pixels(content, header, "CMYK", rows, factor)
            return _converted(Image.frombytes("CMYK", ink.shape[1::-1], ink.tobytes()), channels)
        return jpeg.pixels(content, header, COLOURS[channels][0], rows, factor)


@contextmanager
def _undecodable() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken input
        raise Undecodable(str(error)) from error


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))


def _converted(image: Image.Image, channels: int) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.array(image.convert(COLOURS[channels][1])).reshape(image.height, image.width, channels)


def _only(sample: Sample, suffixes: tuple[str, ...]) -> bytes:
    found = [content for suffix, content in sample.files if suffix in suffixes]
    if len(found) != 1:
        wanted = " or ".join(f".{suffix}" for suffix in suffixes)
        raise broken(sample, f"must have exactly one {wanted} file, has {len(found)}")
    return found[0]
