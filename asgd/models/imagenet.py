"""Classifiers from torchvision, always with fresh weights; images with one channel are shown to them as grey.

torchvision is imported when a model is built, not before (see ``_torchvision``).
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from asgd.models import _checks


def resnet18(shape: Sequence[int], classes: int, stem: str = "imagenet") -> nn.Module:
    """ResNet-18 (He et al., CVPR 2016). ``stem`` as in ``resnet50``. Maps [n, *shape] to [n, classes or 1]."""
    return _resnet("resnet18", shape, classes, stem)


def resnet50(shape: Sequence[int], classes: int, stem: str = "imagenet") -> nn.Module:
    """ResNet-50 (He et al., CVPR 2016). Maps [n, *shape] to [n, classes or 1].

    ``stem``: ``imagenet`` begins with a 7x7 convolution of stride 2 and max-pooling, as published; ``cifar`` with a 3x3
    convolution of stride 1, which is usual for images of 32 or 64 pixels.
    """
    return _resnet("resnet50", shape, classes, stem)


def classifier(name: str, shape: Sequence[int], classes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """torchvision's classifier ``name``, built with torchvision's own ``options``, e.g. {"dropout": 0.5}.

    Maps [n, *shape] to [n, classes or 1]; ``shape`` is [1 or 3, height, width]. Auxiliary outputs are switched off, and
    transformers are built for the size of the data set's images. ValueError for an unknown name, an option or an image
    size that torchvision refuses.
    """
    from asgd.models._torchvision import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = get_close_matches(name, known, n=5, cutoff=0.4) or known
        raise ValueError(f"name={name!r} is not a classifier of torchvision; did you mean one of {', '.join(close)}?")
    channels, *_ = _checks.image(shape, smallest=1)
    options = {**_needed(name, shape), **(options or {})}
    try:
        network = torchvision.models.get_model(name, weights=None, num_classes=_checks.outputs(classes), **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"torchvision refuses {name} for {list(shape)} with options={options}: {error}") from error
    return _with_colour(network, name, channels)


def _needed(name: str, shape: Sequence[int]) -> dict[str, Any]:
    """Options without which torchvision's model would not return one tensor, or not accept these images."""
    if name in ("inception_v3", "googlenet"):
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": shape[1]}
    if name.startswith("maxvit_"):
        return {"input_size": tuple(shape[1:])}
    return {}


def _with_colour(network: nn.Module, name: str, channels: int) -> nn.Module:
    if channels not in (1, 3):
        raise ValueError(f"{name} takes images with 1 or 3 channels, the data set has {channels}; use model=cnn")
    return network if channels == 3 else nn.Sequential(_Grey(), network)


class _Grey(nn.Module):
    """[n, 1, height, width] to [n, 3, height, width], the same image in every channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def _resnet(name: str, shape: Sequence[int], classes: int, stem: str) -> nn.Module:
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem={stem!r} is not known; use imagenet, or cifar for images of 32 or 64 pixels")
    network = classifier(name, shape, classes)
    if stem == "cifar":
        resnet = network[1] if isinstance(network, nn.Sequential) else network
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
        resnet.maxpool = nn.Identity()
    return network
