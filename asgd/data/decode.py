"""From the files of a sample to an RGB image and a label; whatever is wrong is a ``DataError`` naming shard and key."""

import io

from PIL import Image

from asgd.data.tar import IMAGES, LABEL, DataError, Sample


def label(sample: Sample, classes: int) -> int:
    """The integer in ``KEY.cls``, in 0..classes-1."""
    text = _only(sample, (LABEL,)).strip()
    if not text.isdigit():
        raise broken(sample, f"its label {text[:40]!r} is not an integer of 0..{classes - 1}")
    if int(text) >= classes:
        raise broken(sample, f"its label {int(text)} is not in 0..{classes - 1}; does dataset.classes={classes} fit?")
    return int(text)


def image(sample: Sample) -> Image.Image:
    """The only image of the sample, as RGB."""
    content = _only(sample, IMAGES)
    try:
        return Image.open(io.BytesIO(content), formats=("JPEG", "PNG")).convert("RGB")
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken input
        raise broken(sample, f"its image does not decode: {error}") from error


def broken(sample: Sample, cause: str) -> DataError:
    """The error that names shard and key."""
    return DataError(f"{sample.shard}: sample {sample.key}: {cause}")


def _only(sample: Sample, suffixes: tuple[str, ...]) -> bytes:
    found = [content for suffix, content in sample.files if suffix in suffixes]
    if len(found) != 1:
        wanted = " or ".join(f".{suffix}" for suffix in suffixes)
        raise broken(sample, f"must have exactly one {wanted} file, has {len(found)}")
    return found[0]
