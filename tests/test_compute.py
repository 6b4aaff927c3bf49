"""bfloat16 and channels last: gradients are torch's own under the same settings, and runs are repeated bit for bit."""

import copy
import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from asgd import results
from asgd.compute import Compute
from asgd.data.batch import Batch
from asgd.engines import gradients
from asgd.engines.gradients import Exact, Single, Stacked
from asgd.models.dense import mlp
from asgd.models.resnet_cifar import resnet_cifar
from asgd.task import Evaluation, Task, Work, build_task
from tests.runs import replayed, run
from tests.scripted import QUADRATIC, a_job

BF16, LAST, BOTH = Compute("bf16"), Compute(channels_last=True), Compute("bf16", True)
WORDS = {"compute.autocast=bf16": BF16, "compute.channels_last=true": LAST}
CNN = ("model=cnn", "model.channels=[8,8]", "dataset=digits", "dataset.batch_size=16")
IMAGES = (3, 16, 16)


def a_batch(seed: int = 0, shape=IMAGES) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(6, *shape, generator=generator), torch.randint(4, (6,), generator=generator))


def a_network() -> nn.Module:
    torch.manual_seed(1)
    return resnet_cifar(IMAGES, 4)


def by_torch(module: nn.Module, batch: Batch, compute: Compute) -> tuple[torch.Tensor, float]:
    """Gradient [P] and loss, as anybody would write it; BatchNorm's statistics of the module move."""
    inputs = batch.inputs.to(memory_format=torch.channels_last) if compute.channels_last else batch.inputs
    with torch.autocast("cpu", torch.bfloat16, enabled=compute.autocast == "bf16"):
        outputs = module(inputs)
    loss = functional.cross_entropy(outputs.float(), batch.targets)
    loss.backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()]), loss.item()


@pytest.mark.parametrize("compute", [BF16, LAST, BOTH])
@pytest.mark.parametrize("large", [False, True])
def test_the_gradient_is_that_of_plain_torch(compute, large, monkeypatch):
    """``large``: on the parameters where they lie, with gradients moved as they are made."""
    module, batch = a_network(), a_batch()
    reference = copy.deepcopy(module)
    task = Task(module, functional.cross_entropy, compute=compute)
    if large:
        monkeypatch.setattr("asgd.flat.Flat.LARGE", 0)
        task.outbox = torch.empty_like(task.params)
    work = Work(task.params.clone(), task.buffers, batch, seed=0)
    for _ in range(2):  # the first one on a copy
        gradient, buffers = task.solve(work)
    expected, loss = by_torch(reference, batch, compute)
    assert torch.equal(gradient.payload, expected) and gradient.loss == loss
    assert gradient.payload.dtype == task.params.dtype == torch.float32
    running = [each.reshape(-1).float() for name, each in reference.named_buffers()]
    assert torch.equal(buffers, torch.cat(running))


def test_bfloat16_is_near_and_not_the_same():
    torch.manual_seed(1)
    batch, module = a_batch(), mlp(IMAGES, 4, [32])
    whole, rounded = (Task(copy.deepcopy(module), functional.cross_entropy, compute=each) for each in (Compute(), BF16))
    exact, coarse = whole.gradient(batch).payload, rounded.gradient(batch).payload
    difference = ((coarse - exact).norm() / exact.norm()).item()
    assert 2**-12 < difference < 2**-5  # bfloat16 has 8 bits


def test_layers_see_images_with_the_channels_last():
    task, seen = Task(a_network(), functional.cross_entropy, compute=LAST), []
    for layer in task.module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.gradient(a_batch()), task.evaluate([a_batch()]), task.recompute_buffers([a_batch()])
    assert len(seen) == 3 * 19
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in seen)
    assert all(parameter.is_contiguous() for parameter in task.module.parameters())  # pieces of the flat vector


def test_evaluation_and_recomputed_statistics_are_in_bfloat16_as_well():
    task, batch = Task(a_network(), functional.cross_entropy, compute=BF16), a_batch()
    reference = copy.deepcopy(task.module)
    for module in (task.module, reference):
        for layer in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
            layer.momentum = None
    task.recompute_buffers([batch])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reference(batch.inputs)
        outputs = reference.eval()(batch.inputs).float()
    running = [each.reshape(-1).float() for name, each in reference.named_buffers()]
    assert torch.equal(task.buffers, torch.cat(running))
    loss = functional.cross_entropy(outputs, batch.targets).item()
    right = (outputs.argmax(-1) == batch.targets).float().mean().item()
    assert task.evaluate([batch]) == Evaluation(pytest.approx(loss, rel=1e-6), pytest.approx(right), 6)


# Runs


@pytest.mark.parametrize("engine", ["threads", "virtual"])
@pytest.mark.parametrize("words", [[*WORDS][:1], [*WORDS]])
def test_a_run_is_replayed_bit_for_bit(tmp_path, engine, words):
    options = (f"engine={engine}", "workers=3", *words, "budget.updates=20", "evaluate.every=10", "optimizer.lr=0.05")
    source = run(tmp_path / "run", *options, problem=CNN)
    assert replayed(source, tmp_path / "replay")["equal"]
    mine, theirs = (results.evaluation(folder).drop(columns="time_s") for folder in (tmp_path / "replay", source))
    assert mine.equals(theirs) and len(mine) >= 2


def test_it_learns_in_bfloat16(tmp_path):
    options = ("engine=virtual", "workers=2", *WORDS, "budget.updates=300", "evaluate.every=300", "optimizer.lr=0.3")
    assert results.summary(run(tmp_path / "run", *options, problem=CNN))["final_accuracy"] > 0.8


@pytest.mark.slow
def test_processes_compute_in_bfloat16_and_are_replayed(start, tmp_path):
    command = start("model=cnn", *WORDS, "budget.epochs=null", "budget.updates=60", "evaluate.every=30")
    output = command.wait()
    assert command.code == 0, output
    assert replayed(command.folder, tmp_path / "replay")["equal"]


# Stacks of gradients


def smooth(shape) -> nn.Module:
    """A ReLU that another rounding turns over would change a gradient by much more than the rounding."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 16), nn.Tanh(), nn.Linear(16, 4))


def works(shape, count: int) -> list[Work]:
    torch.manual_seed(1)
    vector = torch.nn.utils.parameters_to_vector(smooth(shape).parameters()).detach()
    return [Work(vector + 0.01 * each, torch.empty(0), a_batch(each, shape), each) for each in range(count)]


def a_task(compute: Compute, shape) -> Task:
    return build_task(lambda: smooth(shape), functional.cross_entropy, 1, compute=compute)


@pytest.mark.parametrize("versions", [1, 8])
def test_stacks_in_bfloat16_agree_and_exact_ones_have_the_same_bits(versions):
    task, some = a_task(BF16, (9,)), works((9,), 8)
    some = [work._replace(params=some[at % versions].params) for at, work in enumerate(some)]
    expected, stacked = Single(task).solve(some), Stacked(task, most=8)
    whole = Stacked(a_task(Compute(), (9,)), most=8).solve(some)
    for (own, _), (other, _), (exact, _) in zip(stacked.solve(some), expected, whole, strict=True):
        assert (own.payload - other.payload).norm() < 2**-6 * other.payload.norm()
        assert not torch.equal(own.payload, exact.payload)
    for (own, _), (other, _) in zip(Exact(stacked).solve(some), expected, strict=True):
        assert torch.equal(own.payload, other.payload) and own[1:] == other[1:]


def test_what_cannot_be_stacked_is_computed_one_by_one_and_the_log_says_why(caplog):
    caplog.set_level(logging.INFO)
    task, some = a_task(LAST, IMAGES), works(IMAGES, 4)
    assert isinstance(gradients.choose("auto", task, some, ignores_buffers=False), Single)
    assert "one by one (engine.gradients=stacked: not possible with this model: " in caplog.text
    with pytest.raises(ValueError, match=r"engine\.gradients=stacked: not possible .*memory_format"):
        gradients.choose("stacked", task, some, ignores_buffers=False)


# Values that do not fit


@pytest.mark.parametrize(
    ("words", "problem", "message"),
    [
        (["compute.autocast=fp16"], CNN, r"compute\.autocast=fp16: float16 has gradients that vanish .* null, bf16"),
        (["compute.autocast=fp8"], CNN, r"compute\.autocast=fp8: one of null, bf16"),
        (["compute.channels_last=maybe"], CNN, r"compute\.channels_last=maybe: true or false"),
        (["compute.channels_last=true"], QUADRATIC, r"channels_last=true: inputs of shape \[3\] are no images"),
        (["compute.autocast=bf16"], QUADRATIC, r"compute\.autocast=bf16: torch leaves torch.float64 as it is"),
    ],
)
def test_values_that_do_not_fit_are_refused(words, problem, message):
    with pytest.raises(ValueError, match=message):
        a_job(*words, problem=problem).check()


def test_all_nodes_have_to_agree_and_older_runs_have_none():
    shared = a_job(*WORDS, problem=CNN).shared()
    assert shared["compute.autocast"] == "bf16" and shared["compute.channels_last"] is True
    config = a_job(problem=CNN).config
    del config["compute"]
    assert type(a_job(problem=CNN))(config).compute.autocast is None
