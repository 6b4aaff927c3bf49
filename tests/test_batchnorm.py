"""BatchNorm after asynchronous training: the server's model is right, and would be wrong without its buffers."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from asgd import checkpoints, results, run
from asgd.job import Job
from asgd.messages import Model


def network(shape, classes) -> nn.Module:
    """A small convolutional network in which every layer is normalised; its inputs are far from mean 0, variance 1."""
    layers = [Shifted(), nn.Conv2d(shape[0], 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(256, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, classes)
    )


class Shifted(nn.Module):
    def forward(self, inputs):
        return 10 * inputs + 5


@pytest.fixture(params=["server_mean", "latest", "recompute"])
def trained(request, tmp_path):
    """(job, folder) of a finished run with three asynchronous workers."""
    options = ["engine=threads", "workers=3", "model._target_=tests.test_batchnorm.network", "~model.channels"]
    options += [
        f"buffers={request.param}",
        "dataset.batch_size=32",
        "budget.epochs=8",
        "evaluate.every=1000",
        "optimizer.lr=0.05",
    ]
    with initialize_config_dir(str(run.CONF), version_base="1.3"):
        job = Job(run.resolve(compose("config", options)))
    job.engine.run(job, tmp_path)
    return job, tmp_path


def test_evaluation_is_right_with_the_buffers_and_wrong_without(trained):
    job, folder = trained
    state = checkpoints.load(folder)["server"]
    model = Model(0, state["parameters"]["params"], state["published"])  # the mean changes when a worker leaves
    accuracy = job.evaluate(job.task(), model).accuracy
    assert accuracy == pytest.approx(results.summary(folder)["final_accuracy"], abs=1e-6)
    assert accuracy > 0.85
    ignored = job.task()
    ignored.load(model.params, ignored.buffers)
    assert ignored.evaluate(job.dataset.evaluation()).accuracy < 0.6


def test_buffers_on_the_server_follow_the_choice(trained):
    job, folder = trained
    value, initial = checkpoints.load(folder)["server"]["buffers"]["value"], job.task().buffers
    assert torch.equal(value, initial) == (job.config["buffers"] == "recompute")
