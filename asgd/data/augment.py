"""From an encoded image to pixels: callables ``(content, generator) -> uint8 [channels, size, size]``; and Normalise.

All random numbers come from the numpy generator given, so a sample's augmentation does not depend on what else has
been decoded before it. The distributions are those of torchvision's transforms of the same names. Pixels stay uint8
until a batch is complete, a quarter of the memory traffic; ``Normalise`` then makes it float32, on any device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from asgd.data import decode, options

BILINEAR = Image.Resampling.BILINEAR
CACHED = 2**19  # float32: 2 MB


class Normalise:
    """``(x / 255 - mean) / std`` for each channel: uint8 [n, channels, h, w] to float32 of the same shape."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if len(mean) not in (1, 3) or len(std) != len(mean) or min(std) <= 0:
            raise ValueError(f"mean={list(mean)}, std={list(std)}: must be one or three numbers each, std above 0")
        std = torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1)
        self.scale = 1 / (255 * std)
        self.offset = -torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1) / std

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != len(self.scale):
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}: must be torch.uint8 [n, {len(self.scale)}, h, w]; "
                "dataset.normalise.mean and std need a number for each channel of dataset.shape"
            )
        scale, offset = self.scale.to(images.device), self.offset.to(images.device)
        result = torch.empty(images.shape, device=images.device)
        for part, pixels in zip(result.split(self._at_once(images)), images.split(self._at_once(images)), strict=True):
            part.copy_(pixels).mul_(scale).add_(offset)
        return result

    @staticmethod
    def _at_once(images: torch.Tensor) -> int:
        """So many images that they stay in the processor's cache, and the memory is passed over once."""
        return max(1, CACHED // max(1, images[0:1].numel()))


class PadCropFlip:
    """Pad by ``pad`` black pixels, crop ``size`` at random, flip half of the images (He et al. 2016, CIFAR).

    Images of another size are resized first.
    """

    def __init__(self, size: int, pad: int, channels: int = 3):
        options.at_least(1, size=size)
        options.at_least(0, pad=pad)
        self.size, self.pad, self.channels = size, pad, _channels(channels)

    def __call__(self, content: bytes, generator: np.random.Generator) -> np.ndarray:
        image = _resized(decode.pixels(content, self.channels), self.size, self.size)
        left, top = (int(each * (2 * self.pad + 1)) for each in generator.random(2).tolist())
        padded = np.zeros((self.channels, self.size + 2 * self.pad, self.size + 2 * self.pad), np.uint8)
        padded[:, self.pad : self.pad + self.size, self.pad : self.pad + self.size] = image
        return _flip(padded[:, top : top + self.size, left : left + self.size], generator)


class RandomResizedCropFlip:
    """A random part of the image's area with a random aspect ratio, resized; half flipped (Szegedy et al. 2015).

    A JPEG is decoded down to the part's last row, at 1/2, 1/4 or 1/8 where that leaves the part ``size`` pixels.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        channels: int = 3,
    ):
        options.at_least(1, size=size)
        for name, (low, high) in {"scale": scale, "ratio": ratio}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}=[{low}, {high}]: must be two numbers with 0 < low <= high")
        self.size, self.scale, self.ratio, self.channels = size, tuple(scale), tuple(ratio), _channels(channels)

    def __call__(self, content: bytes, generator: np.random.Generator) -> np.ndarray:
        width, height = decode.size(content)
        box = left, top, right, bottom = random_box(width, height, self.scale, self.ratio, generator)
        factor = next(each for each in (8, 4, 2, 1) if min(right - left, bottom - top) >= each * self.size or each == 1)
        image = decode.pixels(content, self.channels, bottom, factor)
        factor = next(each for each in (8, 4, 2, 1) if -(-width // each) == image.shape[1])  # what it really is
        if factor == 1:
            return _flip(_resized(image[top:bottom, left:right], self.size, self.size), generator)
        return _flip(_resized_part(image, [each / factor for each in box], self.size), generator)


class CentreCrop:
    """Resize the shorter side to ``size / fraction``, then take the ``size`` pixels in the middle; nothing random.

    224 with fraction 0.875 is the customary resize to 256 of ImageNet; fraction 1 only resizes.
    """

    def __init__(self, size: int, fraction: float = 1.0, channels: int = 3):
        options.at_least(1, size=size)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction}: must be above 0 and at most 1")
        self.size, self.shorter, self.channels = size, round(size / fraction), _channels(channels)

    def __call__(self, content: bytes, generator: np.random.Generator) -> np.ndarray:
        image = decode.pixels(content, self.channels)
        height, width = image.shape[:2]
        shorter = min(width, height)
        width, height = int(self.shorter * width / shorter), int(self.shorter * height / shorter)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = _resized(image, width, height)
        return np.ascontiguousarray(resized[:, top : top + self.size, left : left + self.size])


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a part with area ~ U(scale) and log aspect ~ U(log ratio).

    Ten tries to fit into the image, then the largest part in the middle with an allowed aspect.
    """
    for _ in range(10):
        a, b, c, d = generator.random(4).tolist()  # one call: each takes longer than all the arithmetic
        area = width * height * (scale[0] + a * (scale[1] - scale[0]))
        aspect = ratio[0] * (ratio[1] / ratio[0]) ** b
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(c * (width - w + 1)), int(d * (height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _channels(channels: int) -> int:
    if channels not in decode.COLOURS:
        raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
    return channels


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, channels] to [channels, height, width], bilinear with antialiasing; an image of that size as it is."""
    if image.shape[:2] == (height, width):
        return image.transpose(2, 0, 1)
    planes = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
    return interpolate(planes, (height, width), mode="bilinear", antialias=True)[0].numpy()


def _resized_part(image: np.ndarray, box: Sequence[float], size: int) -> np.ndarray:
    """As ``_resized``, of the part in ``box``, whose edges may lie within pixels; only Pillow can do that."""
    left, top = int(box[0]), int(box[1])
    part = image[top : math.ceil(box[3]), left : math.ceil(box[2])]
    edges = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    resized = Image.fromarray(part if part.shape[2] == 3 else part[:, :, 0]).resize((size, size), BILINEAR, edges)
    return np.ascontiguousarray(np.asarray(resized).reshape(size, size, -1).transpose(2, 0, 1))


def _flip(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if generator.random() < 0.5:
        return torch.from_numpy(image).flip(2).numpy()  # seven times as fast as numpy's
    return np.ascontiguousarray(image)
