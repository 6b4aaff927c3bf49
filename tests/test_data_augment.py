"""Augmentation: the distributions of torchvision's transforms, all randomness from the generator given."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from asgd.data.augment import CentreCrop, Normalise, PadCropFlip, RandomResizedCropFlip, random_box
from asgd.seeds import rng

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RAW = {"mean": [0, 0, 0], "std": [1 / 255] * 3}


def picture(width, height):
    return Image.fromarray(rng(0, "picture", width, height).integers(256, size=(height, width, 3), dtype=np.uint8))


def raw(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def test_normalise_is_torchvisions_formula():
    image = picture(5, 3)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    result = Normalise(MEAN, STD)(image)
    assert result.dtype == torch.float32 and result.is_contiguous()
    torch.testing.assert_close(result, (raw(image) / 255 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (257, 1000), (100, 60)])
def test_centre_crop_is_resize_256_crop_224(size):
    width, height = size
    if width < height:
        resized = picture(width, height).resize((256, int(256 * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = picture(width, height).resize((int(256 * width / height), 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = raw(resized)[:, top : top + 224, left : left + 224]
    result = CentreCrop(224, fraction=0.875, **RAW)(picture(width, height), rng(0, "any"))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


def test_centre_crop_leaves_an_image_of_the_right_size_alone():
    image = picture(32, 32)
    torch.testing.assert_close(CentreCrop(32, **RAW)(image, rng(0, "any")), raw(image), rtol=0, atol=1e-3)


def test_random_box_fits_and_has_the_stated_area_and_aspect():
    generator, areas, aspects = rng(0, "boxes"), [], []
    for _ in range(3000):
        left, top, right, bottom = random_box(500, 400, (0.08, 1.0), (3 / 4, 4 / 3), generator)
        assert 0 <= left < right <= 500 and 0 <= top < bottom <= 400
        areas.append((right - left) * (bottom - top) / 200_000)
        aspects.append((right - left) / (bottom - top))
    assert 0.079 < min(areas) < 0.1 and 0.95 < max(areas) <= 1
    assert 0.74 < min(aspects) < 0.78 and 1.28 < max(aspects) < 1.35
    assert abs(np.log(aspects).mean()) < 0.05  # symmetric in the logarithm


def test_random_box_is_uniform_in_area_and_place_while_all_tries_fit():
    generator = rng(0, "boxes")
    boxes = np.array([random_box(1000, 1000, (0.1, 0.3), (1.0, 1.0), generator) for _ in range(4000)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e6
    places = boxes[:, 0] / (1000 - (boxes[:, 2] - boxes[:, 0]))
    for values, low, high in ((areas, 0.1, 0.3), (places, 0, 1)):
        histogram, _ = np.histogram(values, bins=4, range=(low, high))
        assert abs(histogram - 1000).max() < 150


@pytest.mark.parametrize(
    "size, box", [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((9, 9), (0, 0, 9, 9))]
)
def test_random_box_falls_back_to_the_middle(size, box):
    never = (4.0, 4.0)  # an area that cannot fit
    assert random_box(*size, never, (3 / 4, 4 / 3), rng(0, "boxes")) == box


def test_random_resized_crop_is_crop_resize_flip():
    image, transform = picture(90, 70), RandomResizedCropFlip(24, **RAW)
    flips = 0
    for number in range(40):
        box = random_box(90, 70, transform.scale, transform.ratio, rng(number, "augment"))
        expected = raw(image.crop(box).resize((24, 24), Image.Resampling.BILINEAR))
        result = transform(image, rng(number, "augment"))
        flipped = not torch.allclose(result, expected, atol=1e-3)
        torch.testing.assert_close(result.flip(2) if flipped else result, expected, rtol=0, atol=1e-3)
        flips += flipped
    assert 8 < flips < 32


def test_pad_crop_flip_reaches_every_place_and_pads_with_black():
    image = Image.new("RGB", (8, 8))
    image.putpixel((3, 4), (255, 255, 255))
    seen = set()
    for number in range(600):
        result = PadCropFlip(8, 2, **RAW)(image, rng(number, "augment"))
        assert result.shape == (3, 8, 8)
        row, column = divmod(int(result[0].argmax()), 8)
        assert math.isclose(result.sum(), 3 * 255, rel_tol=1e-4)
        seen.add((row, column))
    assert seen == {(row, column) for row in range(2, 7) for column in range(1, 7)}  # 3 +- 2 and its mirror 4 -+ 2


def test_pad_crop_flip_resizes_other_sizes():
    assert PadCropFlip(8, 2, **RAW)(picture(30, 20), rng(0, "augment")).shape == (3, 8, 8)


@pytest.mark.parametrize("transform", [PadCropFlip(16, 4, **RAW), RandomResizedCropFlip(16, **RAW)])
def test_only_the_generator_matters(transform):
    image = picture(20, 20)
    first = transform(image, rng(7, "augment", 1))
    np.random.seed(0)
    torch.manual_seed(0)
    assert torch.equal(first, transform(image, rng(7, "augment", 1)))
    assert not torch.equal(first, transform(image, rng(7, "augment", 2)))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: PadCropFlip(0, 4, **RAW), "size=0"),
        (lambda: PadCropFlip(8, -1, **RAW), "pad=-1"),
        (lambda: RandomResizedCropFlip(8, scale=(0.5, 0.1), **RAW), r"scale=\[0.5, 0.1\]: must be"),
        (lambda: RandomResizedCropFlip(8, ratio=(0.0, 1.0), **RAW), r"ratio=\[0.0, 1.0\]: must be"),
        (lambda: CentreCrop(8, fraction=0, **RAW), "fraction=0: must be"),
        (lambda: Normalise([0, 0], [1, 1]), r"mean=\[0, 0\], std=\[1, 1\]: must be"),
        (lambda: Normalise([0, 0, 0], [1, 1, 0]), "std above 0"),
    ],
)
def test_bad_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
