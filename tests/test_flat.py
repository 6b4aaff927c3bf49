"""Vectors that stay where they are: a task computes on what it was given, and gradients land in the outbox."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from asgd.engines import shared
from asgd.flat import Flat
from asgd.task import Gradient, Task, Work
from tests.test_task import MODELS, batchnorm_net, random_batch


@pytest.fixture
def large(monkeypatch):
    """Vectors of any size are."""
    monkeypatch.setattr(Flat, "LARGE", 0)


def works(task: Task, shape, count: int = 4) -> list[Work]:
    """Different parameters, one batch each."""
    generator = torch.Generator().manual_seed(1)
    models = [task.params + 0.1 * torch.randn(task.params.shape, generator=generator) for _ in range(count)]
    return [Work(model, task.buffers, random_batch(shape, seed=seed), seed) for seed, model in enumerate(models)]


@pytest.mark.parametrize("outbox", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_gradients_where_vectors_are_have_the_bits_of_copies(name, outbox, monkeypatch):
    factory, shape = MODELS[name]
    module, results = factory(), []
    given = works(Task(copy.deepcopy(module), functional.cross_entropy), shape)
    for least in (1 << 40, 0):
        monkeypatch.setattr(Flat, "LARGE", least)
        task = Task(copy.deepcopy(module), functional.cross_entropy)
        task.outbox = torch.full_like(task.params, torch.nan) if outbox else None
        results.append([moved(*task.solve(work)) for work in given])
    for (copied, *facts), (there, *same) in zip(*results, strict=True):
        assert all(map(torch.equal, copied, there)) and facts == same
    assert task.outbox is None or torch.equal(task.outbox, there[0])


def moved(gradient: Gradient, buffers: torch.Tensor) -> tuple:
    """((payload, buffers), loss, correct, samples), in memory of their own."""
    return (gradient.payload.clone(), buffers), *gradient[1:]


def test_parameters_are_looked_at_where_they_are_and_come_back(large):
    task = Task(batchnorm_net(), functional.cross_entropy)
    first, *others = works(task, [3])
    task.solve(first)
    for work in others:
        task.solve(work)
        assert next(task.module.parameters()).data_ptr() == work.params.data_ptr() != task.params.data_ptr()
    task.load(first.params, first.buffers)
    assert next(task.module.parameters()).data_ptr() == task.params.data_ptr()
    assert torch.equal(task.params, first.params)
    task.params.zero_()
    assert not any(parameter.any() for parameter in task.module.parameters())


def test_memory_that_may_only_be_read_is_enough(large):
    task = Task(batchnorm_net(), functional.cross_entropy)
    first, second, *_ = works(task, [3])
    vector, place = shared.make(task.params.numel(), torch.float32)
    vector.copy_(second.params)
    task.solve(first)
    expected = task.solve(second)[0].payload
    found = task.solve(second._replace(params=shared.find(place), buffers=second.buffers))[0].payload
    assert torch.equal(expected, found) and torch.equal(vector, second.params)


class Clamps(nn.Linear):
    """Writes to its own weights."""

    def forward(self, inputs):
        self.weight.data.clamp_(-0.01, 0.01)
        return super().forward(inputs)


def test_a_module_that_writes_to_its_parameters_is_given_copies(large):
    task = Task(Clamps(3, 4), functional.cross_entropy)
    given = works(task, [3])
    before = [work.params.clone() for work in given]
    for work in given:
        task.solve(work)
    assert all(torch.equal(work.params, then) for work, then in zip(given, before, strict=True))


class Unused(nn.Module):
    """The loss depends on ``second`` only; ``frozen`` is not trained."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.frozen = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(3, 4)
        self.frozen.requires_grad_(False)

    def forward(self, inputs):
        return self.second(inputs) + self.frozen(inputs)


def test_what_the_loss_does_not_depend_on_has_gradient_zero(large):
    task = Task(Unused(), functional.cross_entropy)
    task.outbox = torch.full_like(task.params, torch.nan)
    gradient = task.gradient(random_batch([3])).payload
    first, second = 3 * 2 + 2, 3 * 4 + 4
    assert not gradient[:first].any() and not gradient[first + second :].any()
    task.outbox = None
    assert torch.equal(gradient, task.gradient(random_batch([3])).payload) and gradient[first : first + second].any()


def test_nothing_is_left_behind_by_a_backward_pass(large):
    task = Task(batchnorm_net(), functional.cross_entropy)
    task.outbox = torch.empty_like(task.params)
    for seed in range(3):
        task.gradient(random_batch([3], seed=seed))
        assert all(parameter.grad is None for parameter in task.module.parameters())
