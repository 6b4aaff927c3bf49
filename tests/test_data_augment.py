"""Augmentation: the distributions of torchvision's transforms, all randomness from the generator given."""

import io
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from asgd.data.augment import CentreCrop, Normalise, PadCropFlip, RandomResizedCropFlip, random_box
from asgd.seeds import rng

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BILINEAR = Image.Resampling.BILINEAR


def picture(width, height):
    return Image.fromarray(rng(0, "picture", width, height).integers(256, size=(height, width, 3), dtype=np.uint8))


def encode(image, kind="PNG"):
    image.save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def planes(image):
    """uint8 [channels, height, width] of a PIL image."""
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def assert_resized(result, expected):
    """Equal but for rounding: Pillow's resizing and torch's differ by one level here and there."""
    difference = abs(result.astype(int) - expected)
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    assert difference.max() <= 1 and difference.mean() < 0.5


def test_normalise_is_torchvisions_formula():
    images = torch.from_numpy(rng(0, "images").integers(256, size=(2, 3, 5, 4), dtype=np.uint8))
    before = images.clone()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    result = Normalise(MEAN, STD)(images)
    assert result.dtype == torch.float32 and result.is_contiguous() and torch.equal(images, before)
    torch.testing.assert_close(result, (images / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_normalise_does_all_of_a_batch_larger_than_a_cache():
    images = torch.from_numpy(rng(0, "images").integers(256, size=(9, 3, 300, 300), dtype=np.uint8))
    normalise = Normalise(MEAN, STD)
    assert torch.equal(normalise(images), torch.cat([normalise(images[number : number + 1]) for number in range(9)]))


def test_normalise_takes_grey_images():
    images = torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(Normalise([0.1], [0.5])(images), torch.full((2, 1, 3, 3), 0.2))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)],
)
def test_normalise_says_what_it_needs(images):
    with pytest.raises(ValueError, match=r"must be torch.uint8 \[n, 3, h, w\]"):
        Normalise(MEAN, STD)(images)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (257, 1000), (100, 60)])
def test_centre_crop_is_resize_256_crop_224(size):
    width, height = size
    if width < height:
        resized = picture(width, height).resize((256, int(256 * height / width)), BILINEAR)
    else:
        resized = picture(width, height).resize((int(256 * width / height), 256), BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = planes(resized)[:, top : top + 224, left : left + 224]
    assert_resized(CentreCrop(224, fraction=0.875)(encode(picture(width, height)), rng(0, "any")), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_centre_crop_leaves_an_image_of_the_right_size_alone(kind):
    content = encode(picture(32, 32), kind)
    expected = planes(Image.open(io.BytesIO(content)))
    assert np.array_equal(CentreCrop(32)(content, rng(0, "any")), expected)


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


@pytest.mark.parametrize("kind, channels", [("PNG", 3), ("JPEG", 3), ("PNG", 1), ("JPEG", 1)])
def test_random_resized_crop_is_crop_resize_flip(kind, channels):
    """Of the whole image decoded by Pillow; enlarged and made smaller, by less than 2."""
    content = encode(picture(90, 70), kind)
    image = Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L")
    transform, flips = RandomResizedCropFlip(40, channels=channels), 0
    for number in range(40):
        generator = rng(number, "augment")
        box = random_box(90, 70, transform.scale, transform.ratio, generator)
        expected = planes(image.crop(box).resize((40, 40), BILINEAR))
        flipped = generator.random() < 0.5
        result = transform(content, rng(number, "augment"))
        if kind == "JPEG" and channels == 1:  # the luminance as stored, not that of the colours rounded
            assert abs(result.astype(int) - (expected[:, :, ::-1] if flipped else expected)).mean() < 1.5
        else:
            assert_resized(result, expected[:, :, ::-1] if flipped else expected)
        flips += flipped
    assert 8 < flips < 32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size, least", [(100, 2), (50, 4), (25, 8)])
def test_random_resized_crop_of_a_reduced_jpeg_has_the_same_edges(size, least, channels):
    """On average it is less than a third of a pixel beside that of the whole image."""
    ramp = np.add.outer(np.arange(301) * 0.4, np.arange(401) * 0.3).round().astype(np.uint8)
    content = encode(Image.fromarray(np.stack([ramp] * 3, axis=2)), "JPEG")
    image = Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L")
    transform, bias = RandomResizedCropFlip(size, scale=(0.7, 0.9), ratio=(1.0, 1.1), channels=channels), []
    for number in range(20):
        generator = rng(number, "augment")
        box = random_box(401, 301, transform.scale, transform.ratio, generator)
        assert min(box[2] - box[0], box[3] - box[1]) >= least * size
        expected = planes(image.crop(box).resize((size, size), BILINEAR)).astype(float)
        expected = expected[:, :, ::-1] if generator.random() < 0.5 else expected
        difference = transform(content, rng(number, "augment")) - expected
        assert abs(difference).mean() < 1
        bias.append(difference.mean())
    assert abs(np.array(bias)).mean() < 0.1  # one pixel is 0.3 to 0.4 levels


def test_random_boxes_are_distributed_as_torchvisions():
    """Means over many draws agree within four standard errors."""
    from asgd.models._torchvision import torchvision

    draw = torchvision.transforms.RandomResizedCrop.get_params
    image, scale, ratio = Image.new("RGB", (500, 375)), (0.08, 1.0), (3 / 4, 4 / 3)
    torch.manual_seed(0)
    theirs = [draw(image, scale, ratio) for _ in range(4000)]
    theirs = np.array([(left, top, left + width, top + height) for top, left, height, width in theirs], float)
    generator = rng(0, "boxes")
    ours = np.array([random_box(500, 375, scale, ratio, generator) for _ in range(4000)], float)
    for moment in (lambda box: box, lambda box: box**2):
        a, b = moment(ours), moment(theirs)
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 4000)
        assert (abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error).all()


def test_pad_crop_flip_is_every_crop_of_the_padded_image():
    """Exactly the 25 crops and their mirrors, about as often each."""
    image = picture(8, 8)
    padded = np.pad(planes(image), ((0, 0), (2, 2), (2, 2)))
    crops = [padded[:, top : top + 8, left : left + 8] for top, left in product(range(5), range(5))]
    counts = dict.fromkeys([each.tobytes() for crop in crops for each in (crop, crop[:, :, ::-1])], 0)
    transform, content = PadCropFlip(8, 2), encode(image)
    for number in range(2000):
        counts[transform(content, rng(number, "augment")).tobytes()] += 1
    assert len(counts) == 50 and min(counts.values()) > 15 and max(counts.values()) < 75  # 40 on average


def test_pad_crop_flip_resizes_other_sizes():
    image = picture(30, 20)
    result = PadCropFlip(8, 0)(encode(image), rng(0, "augment"))
    expected = planes(image.resize((8, 8), BILINEAR))
    flipped = rng(0, "augment")
    flipped.random(2)
    assert_resized(result, expected[:, :, ::-1] if flipped.random() < 0.5 else expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_become_colour_and_colour_grey(channels):
    for image in (picture(28, 28), picture(28, 28).convert("L")):
        for transform in (PadCropFlip(28, 4, channels=channels), CentreCrop(28, channels=channels)):
            assert transform(encode(image), rng(0, "augment")).shape == (channels, 28, 28)
    grey = CentreCrop(28, channels=channels)(encode(picture(28, 28).convert("L")), rng(0, "any"))
    assert all(np.array_equal(plane, planes(picture(28, 28).convert("L"))[0]) for plane in grey)


@pytest.mark.parametrize("transform", [PadCropFlip(16, 4), RandomResizedCropFlip(16)])
def test_only_the_generator_matters(transform):
    content = encode(picture(20, 20), "JPEG")
    first = transform(content, rng(7, "augment", 1))
    np.random.seed(0)
    torch.manual_seed(0)
    transform(encode(picture(50, 30)), rng(8, "augment"))
    assert np.array_equal(first, transform(content, rng(7, "augment", 1)))
    assert not np.array_equal(first, transform(content, rng(7, "augment", 2)))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: PadCropFlip(0, 4), "size=0"),
        (lambda: PadCropFlip(8, -1), "pad=-1"),
        (lambda: PadCropFlip(8, 1, channels=2), r"channels=2: must be 1 \(grey\) or 3"),
        (lambda: RandomResizedCropFlip(8, scale=(0.5, 0.1)), r"scale=\[0.5, 0.1\]: must be"),
        (lambda: RandomResizedCropFlip(8, ratio=(0.0, 1.0)), r"ratio=\[0.0, 1.0\]: must be"),
        (lambda: CentreCrop(8, fraction=0), "fraction=0: must be"),
        (lambda: CentreCrop(8, channels=4), "channels=4: must be"),
        (lambda: Normalise([0, 0], [1, 1]), r"mean=\[0, 0\], std=\[1, 1\]: must be"),
        (lambda: Normalise([0, 0, 0], [1]), "one or three numbers each"),
        (lambda: Normalise([0, 0, 0], [1, 1, 0]), "std above 0"),
    ],
)
def test_bad_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
