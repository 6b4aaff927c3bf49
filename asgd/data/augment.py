"""From a PIL image to a normalised tensor: callables ``(image, generator) -> float32 [3, size, size]``.

All random numbers come from the numpy generator given, so a sample's augmentation does not depend on what else has
been decoded before it. The distributions are those of torchvision's transforms of the same names.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from asgd.data import options

FLIP = Image.Transpose.FLIP_LEFT_RIGHT
BILINEAR = Image.Resampling.BILINEAR


class Normalise:
    """``(x / 255 - mean) / std`` for each channel of an RGB image."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean={list(mean)}, std={list(std)}: must be three numbers each, std above 0")
        std = np.asarray(std, np.float32).reshape(3, 1, 1)
        self.scale = 1 / (255 * std)
        self.offset = np.asarray(mean, np.float32).reshape(3, 1, 1) / std

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image).transpose(2, 0, 1)  # uint8 [3, height, width]
        return torch.from_numpy(np.ascontiguousarray(pixels) * self.scale - self.offset)


class PadCropFlip:
    """Pad by ``pad`` black pixels, crop ``size`` at random, flip half of the images (He et al. 2016, CIFAR).

    Images of another size are resized first.
    """

    def __init__(self, size: int, pad: int, mean: Sequence[float], std: Sequence[float]):
        options.at_least(1, size=size)
        options.at_least(0, pad=pad)
        self.size, self.pad, self.normalise = size, pad, Normalise(mean, std)

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> torch.Tensor:
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), BILINEAR)
        left, top = generator.integers(2 * self.pad + 1, size=2).tolist()
        crop = (left, top, left + self.size, top + self.size)
        return self.normalise(_flip(ImageOps.expand(image, self.pad).crop(crop), generator))


class RandomResizedCropFlip:
    """A random part of the image's area with a random aspect ratio, resized; half flipped (Szegedy et al. 2015)."""

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ):
        options.at_least(1, size=size)
        for name, (low, high) in {"scale": scale, "ratio": ratio}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}=[{low}, {high}]: must be two numbers with 0 < low <= high")
        self.size, self.scale, self.ratio, self.normalise = size, tuple(scale), tuple(ratio), Normalise(mean, std)

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> torch.Tensor:
        crop = random_box(*image.size, self.scale, self.ratio, generator)
        resized = image.crop(crop).resize((self.size, self.size), BILINEAR)
        return self.normalise(_flip(resized, generator))


class CentreCrop:
    """Resize the shorter side to ``size / fraction``, then take the ``size`` pixels in the middle; nothing random.

    224 with fraction 0.875 is the customary resize to 256 of ImageNet; fraction 1 only resizes.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], fraction: float = 1.0):
        options.at_least(1, size=size)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction}: must be above 0 and at most 1")
        self.size, self.shorter, self.normalise = size, round(size / fraction), Normalise(mean, std)

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> torch.Tensor:
        width, height = image.size
        shorter = min(width, height)
        width, height = int(self.shorter * width / shorter), int(self.shorter * height / shorter)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image if image.size == (width, height) else image.resize((width, height), BILINEAR)
        return self.normalise(resized.crop((left, top, left + self.size, top + self.size)))


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a part with area ~ U(scale) and log aspect ~ U(log ratio).

    Ten tries to fit into the image, then the largest part in the middle with an allowed aspect.
    """
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _flip(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return image.transpose(FLIP) if generator.random() < 0.5 else image
