"""What decoding costs: images per second of CPU time, from JPEG to normalised batches, of four pipelines in turn.

All take RandomResizedCrop and a flip of the same images in one process with one thread. ``--shards`` are tar files of
JPEGs, for example of ImageNet; without them, 500 x 375 pictures of noise and gradients are made.
"""

import argparse
import io
import statistics
import tarfile
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from PIL import Image

from asgd.data.augment import Normalise, RandomResizedCropFlip, random_box
from asgd.models._torchvision import torchvision

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
BATCH = 50

Pipeline = Callable[[list[bytes], int], torch.Tensor]  # encoded images, seed -> float32 [n, 3, size, size]


def from_shards(paths: list[str]) -> list[bytes]:
    images = []
    for path in paths:
        with tarfile.open(path) as archive:
            images += [archive.extractfile(info).read() for info in archive if info.name.endswith((".jpg", ".jpeg"))]
    return images


def synthetic(count: int) -> list[bytes]:
    """Smooth gradients with noise, 500 x 375, quality 90: about 4 bits a pixel, as in ImageNet."""
    generator, images = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(256, size=(6, 8, 3), dtype=np.uint8)).resize((500, 375))
        noisy = np.asarray(coarse) + generator.normal(0, 12, size=(375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer := io.BytesIO(), "JPEG", quality=90)
        images.append(buffer.getvalue())
    return images


def naive(size: int) -> Pipeline:
    """Pillow and torchvision, as in most training scripts."""
    t = torchvision.transforms
    steps = t.Compose(
        [t.RandomResizedCrop(size), t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD)],
    )
    return lambda images, seed: torch.stack([steps(Image.open(io.BytesIO(each)).convert("RGB")) for each in images])


def tensors(size: int) -> Pipeline:
    """simplejpeg, and torchvision's second version of the transforms on uint8 tensors."""
    from torchvision.transforms import v2

    crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    last = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def run(images: list[bytes], seed: int) -> torch.Tensor:
        decoded = (torch.from_numpy(simplejpeg.decode_jpeg(each)).permute(2, 0, 1) for each in images)
        return last(torch.stack([crop(each) for each in decoded]))

    return run


def reduced(size: int) -> Pipeline:
    """As ours, but decoded whole, at 1/2, 1/4 or 1/8 where the crop keeps ``size`` pixels, and cut at whole pixels."""
    normalise = Normalise(MEAN, STD)

    def one(content: bytes, generator: np.random.Generator) -> torch.Tensor:
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
        left, top, right, bottom = random_box(width, height, SCALE, RATIO, generator)
        shorter = min(right - left, bottom - top)
        factor = next((each for each in (8, 4, 2) if shorter >= each * size), 1)
        least = {"min_height": -(-height // factor), "min_width": -(-width // factor), "min_factor": factor}
        edges = [round(each / factor) for each in (top, bottom, left, right)]
        image = torch.from_numpy(simplejpeg.decode_jpeg(content, **least)).permute(2, 0, 1).unsqueeze(0)
        image = image[:, :, edges[0] : edges[1], edges[2] : edges[3]]
        image = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=True)[0]
        return image.flip(2) if generator.random() < 0.5 else image

    return lambda images, seed: normalise(
        torch.stack([one(each, np.random.default_rng((seed, number))) for number, each in enumerate(images)])
    )


def ours(size: int) -> Pipeline:
    augment, normalise = RandomResizedCropFlip(size), Normalise(MEAN, STD)
    return lambda images, seed: normalise(
        torch.from_numpy(
            np.stack([augment(each, np.random.default_rng((seed, number))) for number, each in enumerate(images)])
        )
    )


PIPELINES = {
    "Pillow, torchvision": naive,
    "simplejpeg, torchvision v2 in uint8": tensors,
    "simplejpeg, reduced where possible": reduced,
    "asgd": ours,
}


def speeds(pipelines: dict[str, Pipeline], images: list[bytes], seed: int) -> dict[str, float]:
    """Images per CPU second of this process; the pipelines take turns at each batch, so that all meet the same load."""
    spent, turns = dict.fromkeys(pipelines, 0.0), deque(pipelines)
    for first in range(0, len(images), BATCH):
        turns.rotate()  # who comes first finds the images in no cache
        for name in turns:
            start = time.process_time()
            pipelines[name](images[first : first + BATCH], seed + first)
            spent[name] += time.process_time() - start
    return {name: len(images) / seconds for name, seconds in spent.items()}


def difference(size: int, images: list[bytes]) -> None:
    """Levels between the crops here and those of Pillow: whole image, crop, resize."""
    augment, means = RandomResizedCropFlip(size), []
    for number, content in enumerate(images):
        image, generator = Image.open(io.BytesIO(content)).convert("RGB"), np.random.default_rng(number)
        box = random_box(*image.size, SCALE, RATIO, generator)
        exact = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        exact = exact[:, :, ::-1] if generator.random() < 0.5 else exact
        means.append(abs(augment(content, np.random.default_rng(number)).astype(int) - exact).mean())
    print(
        f"{size} px: asgd differs from Pillow by {statistics.mean(means):.3f} of 255 levels, at most {max(means):.3f}"
    )


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def compare(size: int, images: list[bytes], trials: int) -> None:
    pipelines = {name: build(size) for name, build in PIPELINES.items()}
    speeds(pipelines, images[:BATCH], 0)  # what is only done once
    found = [speeds(pipelines, images, 1000 * trial) for trial in range(trials)]
    for name in pipelines:
        each = [trial[name] for trial in found]
        ratios = [trial[name] / trial["Pillow, torchvision"] for trial in found]
        print(
            f"{size} px, {name}: {spread(each, '.0f')} images per CPU second, {spread(ratios, '.2f')} times the first"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", nargs="*", default=[], help="tar files of JPEGs")
    parser.add_argument("--images", type=int, default=500, help="at most so many")
    parser.add_argument("--trials", type=int, default=5)
    words = parser.parse_args()
    torch.set_num_threads(1)
    images = (from_shards(words.shards) if words.shards else synthetic(words.images))[: words.images]
    print(f"{len(images)} images of {sum(map(len, images)) / len(images) / 1000:.0f} kB on average")
    for size in (224, 64):
        difference(size, images)
        compare(size, images, words.trials)


if __name__ == "__main__":
    main()
