"""Every data set's YAML builds, and what it builds is the data set it says."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.shards import encode, write

FILES = sorted((Path(__file__).parents[1] / "conf" / "dataset").glob("*.yaml"))
SHARDS = {"shards": (10, 224), "cifar10": (10, 32), "tiny_imagenet": (200, 64), "imagenet": (1000, 224)}


def build(name, **changes):
    with initialize_config_dir(str(FILES[0].parents[1]), version_base="1.3"):
        config = compose("config", ["seed=3", f"dataset={name}"])
    OmegaConf.update(config, "dataset", changes)
    return instantiate(config.dataset)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_explains_itself_and_builds(file):
    comment = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("Source:" in line for line in comment) and any("Expect:" in line for line in comment)
    data = build(file.stem)
    assert data.seed == 3
    assert data.batch_size >= 1


@pytest.mark.parametrize("name", ["digits", "noise", "least_squares"])
def test_data_in_memory_need_nothing(name):
    data = build(name)
    data.check()
    train, evaluated = next(data.batches(1, 2)), next(data.evaluation())
    assert train.inputs.shape[1:] == evaluated.inputs.shape[1:] == data.shape
    assert len(train.inputs) == data.batch_size


@pytest.mark.parametrize("name", SHARDS)
def test_shards_have_the_standard_shape_and_augmentation(name, tmp_path):
    classes, size = SHARDS[name]
    samples = [
        (str(number), {"jpg": encode(number, "JPEG", 80), "cls": str(classes - 1).encode()}) for number in range(3)
    ]
    url = write(tmp_path / "a.tar", samples)
    data = build(name, url=url, val_url=url, batch_size=2)
    data.check()
    batch, evaluated = next(data.batches(1, 1)), next(data.evaluation())
    assert batch.inputs.shape == (2, 3, size, size) and evaluated.inputs.shape == (3, 3, size, size)
    outputs = torch.zeros(2, classes)
    assert torch.isclose(data.loss(outputs, batch.targets), torch.tensor(float(classes)).log())


@pytest.mark.parametrize("name", SHARDS)
def test_size_and_classes_can_be_changed(name, tmp_path):
    url = write(tmp_path / "a.tar", [("0", {"jpg": encode(0, "JPEG", 50), "cls": b"4"})])
    data = build(name, url=url, val_url=[url], size=40, classes=5)
    data.check()
    assert (data.shape, data.classes) == ((3, 40, 40), 5)
    assert [batch.inputs.shape for batch in islice(data.batches(1, 1), 2)] == [(1, 3, 40, 40)] * 2


@pytest.mark.parametrize("name", SHARDS)
def test_missing_urls_say_which_option_to_give(name):
    with pytest.raises(ValueError, match=r"give dataset\.url="):
        build(name).check()
