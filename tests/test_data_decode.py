"""Decoding: the pixels of Pillow for every kind of JPEG and PNG, from the rows needed only, or a clean error."""

import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from asgd.data import decode, jpeg
from asgd.data.augment import CentreCrop, PadCropFlip, RandomResizedCropFlip
from asgd.data.errors import DataError
from asgd.data.tar import Sample
from asgd.seeds import rng

END = b"\xff\xd9"
WIDTH, HEIGHT = 90, 131
FRAME, SCAN = b"\xff\xc0", b"\xff\xda"


def scene(width=WIDTH, height=HEIGHT, channels=3):
    """Coarse random colours, enlarged: smooth, with every value."""
    coarse = rng(0, "scene", width, height).integers(256, size=(9, 7, channels), dtype=np.uint8)
    planes = [Image.fromarray(coarse[:, :, number]).resize((width, height)) for number in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def encode(image, kind="JPEG", **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def by_pillow(content, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


def with_segment(content, segment):
    """Another segment in front of all others of a JPEG."""
    return content[:2] + segment + content[2:]


def exif(orientation):
    entries = Image.Exif()
    entries[0x0112] = orientation
    return entries


PHOTO = encode(scene(), quality=92)
THUMBNAIL = encode(scene(16, 16))
INK = Image.frombytes("CMYK", (WIDTH, HEIGHT), scene(channels=4).tobytes())
SEQUENTIAL = {
    sampling: simplejpeg.encode_jpeg(scene(), colorsubsampling=sampling) for sampling in "444 422 420 440 411".split()
} | {
    "grey": encode(scene()[:, :, 0]),
    "ink": encode(INK),
    "rotated": encode(scene(), exif=exif(6)),
    "thumbnail": with_segment(PHOTO, b"\xff\xe1" + (len(THUMBNAIL) + 2).to_bytes(2, "big") + THUMBNAIL),
}
OTHERS = {
    "progressive": encode(scene(), progressive=True),
    "restarts": encode(scene(), restart_marker_blocks=4),
    "filled": with_segment(PHOTO, b"\xff" * 3),
}
SMALLEST = {"422": 2, "440": 2, "411": 1}  # colours are sampled differently in height and width; others: 8
PNGS = {mode: encode(Image.fromarray(scene()).convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
GOOD = SEQUENTIAL | OTHERS | PNGS


@pytest.mark.parametrize("name", GOOD)
def test_sizes_and_pixels_are_pillows(name):
    content = GOOD[name]
    assert decode.size(content) == (WIDTH, HEIGHT)
    assert np.array_equal(decode.pixels(content), by_pillow(content))
    assert np.array_equal(decode.pixels(memoryview(content)), by_pillow(content))


@pytest.mark.parametrize("name", GOOD)
def test_grey_is_the_luminance(name):
    grey = decode.pixels(GOOD[name], channels=1)
    assert grey.shape == (HEIGHT, WIDTH, 1)
    colour = decode.pixels(GOOD[name]).astype(float)
    assert abs(grey[:, :, 0] - colour @ [0.299, 0.587, 0.114]).mean() < 1.0


def test_sixteen_bits_are_scaled_and_not_clipped():
    fine = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    content = encode(fine, "PNG")
    assert by_pillow(content).max() == by_pillow(content)[1, 0, 0] == 255  # Pillow's own conversion clips
    assert np.array_equal(decode.pixels(content), np.repeat((fine // 256).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_first_rows_are_those_of_the_whole_image_and_no_more_are_decoded(name, factor):
    factor = min(factor, SMALLEST.get(name, 8))
    whole = decode.pixels(SEQUENTIAL[name], factor=factor)
    assert whole.shape[:2] == (-(-HEIGHT // factor), -(-WIDTH // factor))
    for rows in (1, 14, 15, 16, 17, 30, 31, 32, 33, 63, 94, 110):
        first = decode.pixels(SEQUENTIAL[name], rows=rows, factor=factor)
        needed = -(-rows // factor)
        assert np.array_equal(first[:needed], whole[:needed])
        assert rows + 2 <= len(first) * factor < rows + 2 + 16
    assert len(decode.pixels(SEQUENTIAL[name], rows=120)) == HEIGHT  # in the last row of blocks


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", [*SEQUENTIAL, *OTHERS])
def test_a_reduced_jpeg_is_close_to_the_mean_of_its_pixels(name, factor):
    reduced = decode.pixels(GOOD[name], factor=factor)
    factor = min(factor, SMALLEST.get(name, 8))
    assert reduced.shape == (-(-HEIGHT // factor), -(-WIDTH // factor), 3)
    whole = decode.pixels(GOOD[name]).astype(float)[: HEIGHT // 8 * 8, : WIDTH // 8 * 8]
    means = whole.reshape(len(whole) // factor, factor, -1, factor, 3).mean(axis=(1, 3))
    assert abs(reduced[: means.shape[0], : means.shape[1]] - means).mean() < 1.5


@pytest.mark.parametrize("name", PNGS)
def test_a_png_keeps_its_size(name):
    assert np.array_equal(decode.pixels(PNGS[name], factor=4), decode.pixels(PNGS[name]))


def test_libjpeg_reduces_unevenly_sampled_colours_wrongly():
    def error(sampling):
        reduced = simplejpeg.decode_jpeg(SEQUENTIAL[sampling], min_height=33, min_width=23, min_factor=4)
        return abs(reduced[:32, :22] - scene()[:128, :88].reshape(32, 4, 22, 4, 3).mean(axis=(1, 3))).mean()

    assert error("422") > 3 * error("420")


@pytest.mark.parametrize("name", OTHERS | PNGS)
def test_what_cannot_end_early_is_decoded_whole(name):
    assert np.array_equal(decode.pixels((OTHERS | PNGS)[name], rows=20), decode.pixels((OTHERS | PNGS)[name]))


def test_without_context_the_colours_of_the_last_row_would_be_wrong(monkeypatch):
    whole = decode.pixels(SEQUENTIAL["420"])
    monkeypatch.setattr(jpeg, "CONTEXT", 0)
    assert not np.array_equal(decode.pixels(SEQUENTIAL["420"], rows=32)[:32], whole[:32])


TRUNCATED = {kind: encode(scene(), progressive=kind == "progressive") for kind in ("sequential", "progressive")}


@pytest.mark.parametrize("kind", TRUNCATED)
@pytest.mark.parametrize("end", [b"", END])
def test_a_truncated_jpeg_is_an_error_wherever_it_ends(kind, end):
    content = TRUNCATED[kind]
    first = content.index(SCAN) + 20
    for stop in np.linspace(first, len(content) - 40, 12, dtype=int):
        with pytest.raises(decode.Undecodable):
            decode.pixels(content[:stop] + end)


def test_pillow_would_take_a_truncated_jpeg_with_an_end_marker_for_good():
    half = PHOTO[: len(PHOTO) // 2] + END
    assert len(np.unique(by_pillow(half)[-8:].reshape(-1, 3), axis=0)) == 1  # one colour below
    with pytest.raises(decode.Undecodable, match="premature end"):
        decode.pixels(half)


def test_rows_that_are_there_do_not_excuse_a_file_without_an_end():
    for stop in np.linspace(len(PHOTO) // 2, len(PHOTO) - 2, 12, dtype=int):
        with pytest.raises(decode.Undecodable, match="Premature end"):
            decode.pixels(PHOTO[:stop], rows=10)


def test_bytes_left_over_at_the_end_are_no_error():
    padded = PHOTO[:-2] + b"\0" * 100 + END
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(padded)
    assert np.array_equal(decode.pixels(padded), by_pillow(PHOTO))
    assert np.array_equal(decode.pixels(PHOTO + b"more"), by_pillow(PHOTO))


def header_with(content, offset, value):
    """A JPEG with other bytes in its frame header: 4 is the precision, 5 the height, 7 the width."""
    start = content.index(FRAME) + offset
    return content[:start] + value + content[start + len(value) :]


BROKEN = {
    "nothing": b"",
    "text": b"hello",
    "start": PHOTO[:2],
    "header": PHOTO[:200],
    "GIF": encode(scene()[:, :, 0], "GIF"),
    "cut PNG": PNGS["RGB"][:-60],
    "PNG with a wrong byte": PNGS["RGB"][:60] + b"\0\0" + PNGS["RGB"][62:],
    "12 bits": header_with(PHOTO, 4, b"\x0c"),
    "no height": header_with(PHOTO, 5, b"\0\0"),
    "more rows": header_with(PHOTO, 5, (HEIGHT + 100).to_bytes(2, "big")),
    "cut ink": SEQUENTIAL["ink"][:-200] + END,
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("augment", [CentreCrop(32), PadCropFlip(32, 4), RandomResizedCropFlip(32, scale=(0.9, 1.0))])
def test_broken_images_name_shard_and_key(name, augment):
    sample = Sample("a.tar", "0042", (("jpg", BROKEN[name]), ("cls", b"0")))
    with pytest.raises(DataError, match=r"^a\.tar: sample 0042: its image does not decode: \S"):
        decode.decoded(sample, augment, rng(0, "broken"))


def huge(kind):
    """A small file whose header says 60,000 x 60,000 pixels."""
    side = 60_000
    if kind == "JPEG":
        return header_with(PHOTO, 5, side.to_bytes(2, "big") * 2)
    sides = b"IHDR" + side.to_bytes(4, "big") * 2 + PNGS["RGB"][24:29]
    return PNGS["RGB"][:12] + sides + zlib.crc32(sides).to_bytes(4, "big") + PNGS["RGB"][33:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_header_cannot_ask_for_all_of_the_memory(kind):
    with pytest.raises(decode.Undecodable, match=r"60000 x 60000 pixels|3600000000 pixels"):
        decode.pixels(huge(kind))


def test_a_mistake_in_an_augmentation_is_not_taken_for_a_broken_image():
    sample = Sample("a.tar", "0", (("jpg", PHOTO),))
    with pytest.raises(ZeroDivisionError):
        decode.decoded(sample, lambda content, generator: 1 // 0, rng(0, "mistake"))


def test_damage_anywhere_gives_an_image_or_the_error():
    generator, outcomes = rng(0, "damage"), []
    for content in (PHOTO, OTHERS["progressive"], SEQUENTIAL["ink"], PNGS["RGB"]):
        for _ in range(150):
            damaged = bytearray(content)
            for place in generator.integers(len(content), size=generator.integers(1, 4)):
                damaged[place] = generator.integers(256)
            try:
                width, height = decode.size(bytes(damaged))
                outcomes.append(decode.pixels(bytes(damaged)).shape == (height, width, 3))
            except decode.Undecodable:
                outcomes.append(None)
    assert set(outcomes) == {True, None}


def digest(number):
    """One augmented image of each kind, as bytes."""
    augments = (RandomResizedCropFlip(48), PadCropFlip(32, 4), CentreCrop(48, 0.875), PadCropFlip(28, 4, channels=1))
    contents = list(GOOD.values())
    return b"".join(
        augment(contents[number % len(contents)], rng(0, "augment", number)).tobytes() for augment in augments
    )


def test_threads_and_processes_give_the_same_bits():
    numbers = range(60)
    expected = [digest(number) for number in numbers]
    assert all(first != second for first, second in pairwise(expected))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(digest, numbers)) == expected
    with get_context("spawn").Pool(1) as processes:
        assert processes.map(digest, reversed(numbers)) == expected[::-1]
