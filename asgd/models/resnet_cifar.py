"""The thin residual networks for CIFAR of He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition",
CVPR 2016, arXiv:1512.03385, section 4.2: 20, 32, 44, 56 or 110 layers, shortcuts without parameters (option A).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from asgd.models import _checks


def resnet_cifar(shape: Sequence[int], classes: int, depth: int = 20) -> nn.Module:
    """The network of ``depth`` = 6k + 2 layers: three stages of k blocks with 16, 32 and 64 channels.

    Maps [n, *shape] to [n, classes or 1], where ``shape`` is [channels, height, width], at least 4x4 pixels.
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"depth={depth} is not 6k + 2 with k >= 1; use 20, 32, 44, 56 or 110 as in the paper")
    images, _, _ = _checks.image(shape, smallest=4)
    return nn.Sequential(
        *(_convolution(images, 16), nn.BatchNorm2d(16), nn.ReLU()),
        *_stage(16, 16, blocks, stride=1),
        *_stage(16, 32, blocks, stride=2),
        *_stage(32, 64, blocks, stride=2),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, _checks.outputs(classes))),
    )


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> list[nn.Module]:
    return [_Block(inputs, outputs, stride), *(_Block(outputs, outputs, stride=1) for _ in range(blocks - 1))]


class _Block(nn.Module):
    """Two 3x3 convolutions, plus the input itself: subsampled by ``stride``, new channels filled with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride, self.added = stride, outputs - inputs
        self.residual = nn.Sequential(
            *(_convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(_convolution(outputs, outputs), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        before = self.added // 2
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, before, self.added - before))
        return functional.relu(self.residual(x) + shortcut)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
