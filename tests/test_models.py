"""The models: sizes, what they compute, which inputs they take, how torchvision is imported."""

import os
import subprocess
import sys
from math import pi, sin, sqrt
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from asgd.data.batch import Batch
from asgd.models.cnn import cnn
from asgd.models.dense import linear, mlp
from asgd.models.imagenet import classifier, resnet18, resnet50
from asgd.models.quadratic import Quadratic
from asgd.models.resnet_cifar import resnet_cifar
from asgd.task import build_task, check_outputs

CONF = Path(__file__).parents[1] / "conf"
DATASETS = {
    "quadratic": "{shape: [7], classes: 0}",
    "linear": "{shape: [5], classes: 0}",
    "mlp": "{shape: [1, 8, 8], classes: 10}",
    "cnn": "{shape: [1, 8, 8], classes: 10}",
}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "model").glob("*.yaml"))])
def test_every_file_builds_a_model_that_fits(name, tmp_path):
    dataset = DATASETS.get(name, "{shape: [3, 32, 32], classes: 10}")
    root = f"defaults: [{{model: {name}}}, _self_]\nhydra: {{searchpath: ['file://{CONF}']}}\ndataset: {dataset}\n"
    (tmp_path / "config.yaml").write_text(root)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config")
    task = build_task(instantiate(config.model), functional.cross_entropy, seed=0)
    check_outputs(task, config.dataset.shape, config.dataset.classes)


def residual_size(depth: int, images: int, classes: int) -> int:
    """Convolutions and BatchNorms of the CIFAR networks; shortcuts have no parameters."""
    widths, blocks = [16, 32, 64], (depth - 2) // 6
    convolutions = 9 * images * 16 + sum(9 * w * w * 2 * blocks for w in widths)
    convolutions -= sum(9 * w * w // 2 for w in widths[1:])  # the first of a stage has half as many inputs
    norms = 2 * 16 + sum(2 * w * 2 * blocks for w in widths)
    return convolutions + norms + 64 * classes + classes


def test_resnet_cifar_has_the_published_size():
    assert size(resnet_cifar([3, 32, 32], 10)) == residual_size(20, 3, 10) == 269_722
    assert size(resnet_cifar([1, 28, 28], 7, depth=32)) == residual_size(32, 1, 7)


def test_resnet_cifar_shortcuts_subsample_and_fill_with_zeros():
    network = resnet_cifar([3, 8, 8], 10).eval()
    for name, parameter in network.named_parameters():
        if "residual.4" in name:  # the second BatchNorm of each block: no residual is left
            parameter.data.zero_()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        first = network[:3](images)
        features = torch.zeros(2, 64)
        features[:, 24:40] = first[:, :, ::4, ::4].mean((2, 3))
        torch.testing.assert_close(network(images), network[-1](features))


@pytest.mark.parametrize(("build", "imagenet", "last"), [(resnet18, 11_689_512, 512), (resnet50, 25_557_032, 2048)])
def test_resnets_have_the_published_sizes(build, imagenet, last):
    with torch.device("meta"):
        assert size(build([3, 224, 224], 1000)) == imagenet
        smaller = build([3, 32, 32], 10, stem="cifar")
    assert size(smaller) == imagenet - 990 * (last + 1) - 64 * 3 * (7 * 7 - 3 * 3)


def test_cifar_stem_keeps_the_resolution():
    seen = {}
    for stem in ("imagenet", "cifar"):
        network = resnet18([3, 32, 32], 10, stem=stem).eval()
        network.layer1.register_forward_hook(lambda _, __, out, stem=stem: seen.update({stem: out.shape[-1]}))
        network(torch.zeros(1, 3, 32, 32))
    assert seen == {"imagenet": 8, "cifar": 32}


def test_mlp_is_what_it_says():
    network = mlp([2, 3], 4, hidden=[5])
    w1, b1, w2, b2 = network.parameters()
    x = torch.randn(7, 2, 3)
    torch.testing.assert_close(network(x), torch.relu(x.flatten(1) @ w1.T + b1) @ w2.T + b2)
    assert size(mlp([2, 3], 4, hidden=[])) == 6 * 4 + 4


def test_linear_for_least_squares():
    network = linear([6], 0, bias=False, dtype="float64")
    (weight,) = network.parameters()
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(network(x), x @ weight.T)
    assert weight.shape == (1, 6)


@pytest.mark.parametrize("shape", [[1, 4, 4], [1, 28, 28], [3, 32, 32], [4, 9, 13]])
def test_cnn_takes_small_images_of_any_shape(shape):
    network = cnn(shape, 10, channels=[16, 32])
    assert network(torch.zeros(2, *shape)).shape == (2, 10)
    features = 32 * (shape[1] // 4) * (shape[2] // 4)
    assert size(network) == 9 * shape[0] * 16 + 16 + 9 * 16 * 32 + 32 + 10 * features + 10


def test_cnn_learns_digits():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    training, test = order[:1437], order[1437:]
    task = build_task(lambda: cnn([1, 8, 8], 10), functional.cross_entropy, seed=1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(1000):
        chosen = training[torch.randint(len(training), (32,), generator=generator)]
        task.params -= 0.2 * task.gradient(Batch(images[chosen], labels[chosen])).payload
    assert task.evaluate([Batch(images[test], labels[test])]).accuracy >= 0.97


def value_at(module: Quadratic, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    module.x.data.copy_(x)
    return module(noise)


def test_quadratic_with_the_tridiagonal_matrix():
    d = 6
    module = Quadratic([d])
    assert module.x.tolist() == [sqrt(d), 0, 0, 0, 0, 0]
    ones = torch.ones(d - 1, dtype=torch.float64)
    a = (2 * torch.eye(d, dtype=torch.float64) - ones.diag(1) - ones.diag(-1)) / 4
    b = torch.tensor([-0.25, 0, 0, 0, 0, 0], dtype=torch.float64)
    x, noise = torch.randn(d, dtype=torch.float64), torch.randn(3, d, dtype=torch.float64)
    expected = torch.stack([x @ a @ x / 2 - b @ x + xi @ x for xi in noise])
    torch.testing.assert_close(value_at(module, x, noise), expected)
    largest = torch.linalg.eigvalsh(a)[-1].item()
    assert largest == pytest.approx(sin(pi * d / (2 * (d + 1))) ** 2)
    assert largest < 1


def test_quadratic_with_given_eigenvalues():
    module = Quadratic([3], eigenvalues=[1.0, 2.0], b=0.5, start=3.0, dtype="float32")
    assert module.x.tolist() == [3.0, 3.0, 3.0]
    assert module.x.dtype == torch.float32
    assert module(torch.zeros(1, 3)).tolist() == [(1 * 9 + 2 * 9 + 0 * 9) / 2 - 0.5 * 9]


def test_a_grey_image_is_shown_in_three_channels():
    torch.manual_seed(0)
    grey = classifier("squeezenet1_1", [1, 32, 32], 5).eval()
    torch.manual_seed(0)
    colour = classifier("squeezenet1_1", [3, 32, 32], 5).eval()
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), colour(images.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(("name", "pixels"), [("googlenet", 32), ("inception_v3", 75), ("vit_b_32", 64)])
def test_special_classifiers_return_one_tensor_in_train_mode(name, pixels):
    with torch.device("meta"):
        network = classifier(name, [3, pixels, pixels], 5)
        assert network.train()(torch.zeros(2, 3, pixels, pixels)).shape == (2, 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: linear([3], -1), "classes=-1"),
        (lambda: linear([3], 2, dtype="half"), "dtype='half' is not known; use one of float32, float64"),
        (lambda: mlp([3], 2, hidden=[4, 0]), r"hidden=\[4, 0\]"),
        (lambda: cnn([1, 8, 8], 2, channels=[]), "at least one convolution"),
        (lambda: cnn([1, 2, 8], 2), "at least 4x4 pixels"),
        (lambda: cnn([64], 2), r"shape=\[64\] is not \[channels"),
        (lambda: resnet_cifar([3, 32, 32], 10, depth=18), "depth=18 is not 6k"),
        (lambda: resnet18([3, 32, 32], 10, stem="small"), "stem='small' is not known"),
        (lambda: classifier("mobilenet", [3, 32, 32], 10), "did you mean one of mobilenet_v2, mobilenet_v3_small"),
        (lambda: classifier("fcn_resnet50", [3, 32, 32], 10), "not a classifier of torchvision"),
        (lambda: classifier("resnet34", [4, 32, 32], 10), "1 or 3 channels, the data set has 4"),
        (lambda: classifier("resnet34", [3, 32, 32], 10, {"dropuot": 1}), "dropuot"),
        (lambda: classifier("vit_b_32", [3, 33, 33], 10), "indivisible by patch size"),
        (lambda: Quadratic([2, 2]), "noise vectors"),
        (lambda: Quadratic([2], b=[1.0, 2.0, 3.0]), "b has 3 values but there are 2 coordinates"),
    ],
)
def test_unusable_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def fresh_python(program: str, path: Path | None = None) -> str:
    """What ``program`` prints in a new interpreter, which finds modules in ``path`` first."""
    root = str(CONF.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), root] if path else [root])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_torchvision_is_imported_only_by_its_own_models():
    program = (
        "import sys\n"
        "import asgd.models.imagenet\n"
        "from asgd.models import cnn, dense, quadratic, resnet_cifar\n"
        "from asgd.task import build_task\n"
        "for model in (cnn.cnn, dense.mlp, dense.linear, resnet_cifar.resnet_cifar):\n"
        "    build_task(lambda: model([1, 8, 8], 10), None, 0)\n"
        "quadratic.Quadratic([3])\n"
        "print('torchvision' in sys.modules)"
    )
    assert fresh_python(program) == "False"


TORCHVISIONS = {  # stand-ins: __init__.py, and what is then known of the operator nms
    "whole": (
        "import torch\nown = torch.library.Library('torchvision', 'DEF')\nown.define('nms(Tensor x) -> Tensor')",
        "torchvision::nms(Tensor x) -> Tensor",
    ),
    "without its extension": (
        "import torch\nimport torchvision.extension\ntorchvision.extension\n"
        "if not hasattr(torch.ops.torchvision, 'nms'):\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')",
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ),
    "of another CUDA": ("raise RuntimeError('different CUDA major versions')", "different CUDA major versions"),
}


@pytest.mark.parametrize("kind", TORCHVISIONS)
def test_operators_are_declared_only_where_torchvision_lacks_them(kind, tmp_path):
    source, expected = TORCHVISIONS[kind]
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "extension.py").touch()
    program = (
        "import torch\n"
        "try:\n"
        "    import asgd.models._torchvision\n"
        "    print(torch.ops.torchvision.nms.default._schema)\n"
        "except RuntimeError as error:\n"
        "    print(error)"
    )
    assert fresh_python(program, tmp_path) == expected
