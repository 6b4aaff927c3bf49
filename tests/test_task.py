"""The task: flat views, gradients, buffers. Expected values come from plain torch or from arithmetic in the test."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from asgd.data.batch import Batch
from asgd.models.cnn import cnn
from asgd.models.dense import linear, mlp
from asgd.models.imagenet import classifier, resnet18
from asgd.models.quadratic import Quadratic
from asgd.models.resnet_cifar import resnet_cifar
from asgd.task import Task, build_task, check_outputs

MODELS = {
    "linear": (lambda: linear([1, 8, 8], 4), [1, 8, 8]),
    "mlp": (lambda: mlp([1, 8, 8], 4, [7, 5]), [1, 8, 8]),
    "cnn": (lambda: cnn([1, 8, 8], 4), [1, 8, 8]),
    "resnet20": (lambda: resnet_cifar([1, 8, 8], 4), [1, 8, 8]),
    "resnet18": (lambda: resnet18([3, 16, 16], 4, stem="cifar"), [3, 16, 16]),
    "mobilenet": (lambda: classifier("mobilenet_v3_small", [1, 32, 32], 4, {"dropout": 0.0}), [1, 32, 32]),
}


def random_batch(shape, samples=6, classes=4, seed=0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, *shape, generator=generator)
    return Batch(inputs, torch.randint(classes, (samples,), generator=generator))


def batchnorm_net() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))


def a_task(module=None) -> Task:
    return build_task(lambda: module or batchnorm_net(), functional.cross_entropy, seed=1)


def sgd(task: Task, steps: int, lr=0.1) -> None:
    for step in range(steps):
        task.params -= lr * task.gradient(random_batch([3], seed=step)).payload


@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_that_of_backward(name):
    factory, shape = MODELS[name]
    plain = factory().double()
    task, batch = Task(copy.deepcopy(plain), functional.cross_entropy), random_batch(shape)
    outputs = plain(batch.inputs.double())
    loss = functional.cross_entropy(outputs, batch.targets)
    loss.backward()
    gradient = task.gradient(batch)
    expected = torch.cat([parameter.grad.reshape(-1) for parameter in plain.parameters()])
    torch.testing.assert_close(gradient.payload, expected, rtol=1e-10, atol=1e-12)
    assert gradient.loss == pytest.approx(loss.item(), rel=1e-12)
    assert gradient.correct == (outputs.argmax(1) == batch.targets).sum().item()
    assert gradient.samples == 6
    for own, other in zip(task.module.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_gradient_of_the_quadratic_is_exact():
    task = Task(Quadratic([9]), lambda values, _: values.mean())
    noise = torch.randn(5, 9, dtype=torch.float64)
    ones = torch.ones(8, dtype=torch.float64)
    matrix = (2 * torch.eye(9, dtype=torch.float64) - ones.diag(1) - ones.diag(-1)) / 4
    b = torch.tensor([-0.25] + 8 * [0.0], dtype=torch.float64)
    gradient = task.gradient(Batch(noise, torch.zeros(5, 1)))
    torch.testing.assert_close(gradient.payload, matrix @ task.params - b + noise.mean(0), rtol=1e-14, atol=1e-14)
    assert gradient.correct is None
    assert gradient.payload.dtype == torch.float64


def test_parameters_are_views():
    task = a_task(linear([3], 4))
    inputs = torch.randn(2, 3)
    task.params.copy_(torch.arange(16.0))
    weight, bias = torch.arange(12.0).view(4, 3), torch.arange(12.0, 16.0)
    torch.testing.assert_close(task.module(inputs), inputs @ weight.T + bias)
    with torch.no_grad():
        next(task.module.parameters()).zero_()
    assert task.params.tolist() == 12 * [0.0] + [12.0, 13.0, 14.0, 15.0]


def test_load_copies():
    task = a_task()
    params, buffers = torch.randn_like(task.params), torch.rand_like(task.buffers).round()
    kept = params.clone(), buffers.clone()
    task.load(params, buffers)
    assert torch.equal(task.params, params)
    assert torch.equal(task.buffers, buffers)
    task.params.zero_()
    sgd(task, 2)
    assert torch.equal(params, kept[0])
    assert torch.equal(buffers, kept[1])
    before = task.params.clone()
    params.fill_(7)
    assert torch.equal(task.params, before)


@pytest.mark.parametrize("module", [nn.Linear(3, 4, bias=False), batchnorm_net()], ids=["one tensor", "batchnorm"])
def test_what_was_handed_out_is_never_written_again(module):
    task = a_task(module)
    gradient, buffers = task.gradient(random_batch([3])), task.buffers
    payload, kept = gradient.payload.clone(), buffers.clone()
    sgd(task, 3, lr=10.0)
    task.load(torch.zeros_like(task.params), torch.zeros_like(buffers))
    for parameter in module.parameters():
        parameter.data.fill_(9)
    assert torch.equal(gradient.payload, payload)
    assert torch.equal(buffers, kept)
    assert not gradient.payload.requires_grad


def test_buffers_survive_the_journey_bit_for_bit():
    sender, receiver = a_task(), a_task()
    sgd(sender, 5)
    receiver.load(sender.params, sender.buffers)
    for name, value in sender.module.state_dict().items():
        assert torch.equal(receiver.module.state_dict()[name], value), name
    assert receiver.module[0].num_batches_tracked.item() == 5
    assert receiver.module[0].num_batches_tracked.dtype == torch.int64
    batches = [random_batch([3], seed=9)]
    assert receiver.evaluate(batches) == sender.evaluate(batches)


def test_mean_buffers_are_rounded_where_integers():
    task = a_task(nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 4)))
    task.load(task.params, torch.tensor([0.25, 0.5, 6.7]))
    assert task.buffers.tolist() == [0.25, 0.5, 7.0]


def test_constants_outside_the_state_dict_do_not_travel():
    assert Task(Quadratic([3]), functional.mse_loss).buffers.numel() == 0


def test_evaluation_without_the_trained_buffers_is_another_one():
    task, batches = a_task(), [random_batch([3], samples=50)]
    initial = task.buffers
    sgd(task, 60)
    trained = task.evaluate(batches)
    task.load(task.params, initial)
    assert abs(task.evaluate(batches).loss - trained.loss) > 0.01


def test_recomputed_buffers_are_the_statistics_of_the_batches():
    task = a_task()
    sgd(task, 3)
    batches = [random_batch([3], seed=seed) for seed in (11, 12, 13)]
    momenta = [task.module[0].momentum, task.module[2].momentum]
    task.recompute_buffers(batches)
    first = [batch.inputs for batch in batches]
    norm, layer = task.module[0], task.module[1]
    with torch.no_grad():
        hidden = [layer(functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True)) for x in first]
    for index, inputs in ((0, first), (2, hidden)):
        own = task.module[index]
        torch.testing.assert_close(own.running_mean, torch.stack([x.mean(0) for x in inputs]).mean(0))
        torch.testing.assert_close(own.running_var, torch.stack([x.var(0) for x in inputs]).mean(0))
        assert own.num_batches_tracked == 3
    assert [task.module[0].momentum, task.module[2].momentum] == momenta


def test_evaluation_weights_samples_not_batches():
    task, whole = a_task(mlp([3], 4)), random_batch([3], samples=10)
    parts = [Batch(whole.inputs[a:b], whole.targets[a:b]) for a, b in ((0, 1), (1, 10))]
    one, two = task.evaluate([whole]), task.evaluate(iter(parts))
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.accuracy == one.accuracy
    assert one.samples == two.samples == 10
    with torch.no_grad():
        outputs = task.module(whole.inputs)
    assert one.accuracy == (outputs.argmax(1) == whole.targets).sum().item() / 10
    assert one.loss == pytest.approx(functional.cross_entropy(outputs, whole.targets).item(), rel=1e-6)


def test_top_k_counts_targets_among_the_k_largest_outputs():
    scores, targets = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 7
    batches = [Batch(scores[a:b], targets[a:b]) for a, b in ((0, 3), (3, 50))]
    task = a_task(nn.Linear(7, 7))
    with torch.no_grad():
        task.params.copy_(torch.cat([torch.eye(7).flatten(), torch.zeros(7)]))  # the outputs are the inputs
    ranks = [sorted(row, reverse=True).index(row[target]) for row, target in zip(scores.tolist(), targets, strict=True)]
    for k in range(1, 8):
        assert task.evaluate(batches, top_k=k).top_k_accuracy == sum(rank < k for rank in ranks) / 50
    one = task.evaluate(batches, top_k=1)
    assert (one.accuracy, one._replace(top_k_accuracy=None)) == (one.top_k_accuracy, task.evaluate(batches))


def test_evaluation_changes_nothing():
    task = a_task()
    sgd(task, 2)
    params, buffers = task.params.clone(), task.buffers
    task.evaluate([random_batch([3])])
    assert torch.equal(task.params, params)
    assert torch.equal(task.buffers, buffers)


def test_regression_has_no_accuracy():
    task = Task(linear([3], 0), functional.mse_loss)
    batch = Batch(torch.randn(4, 3), torch.randn(4, 1))
    assert task.gradient(batch).correct is None
    assert task.evaluate([batch]).accuracy is None


def test_frozen_and_unused_parameters_have_gradient_zero():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.unused, self.used = nn.Linear(3, 3), nn.Linear(2, 2), nn.Linear(3, 4)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x))

    task = a_task(Partial())
    payload = task.gradient(random_batch([3])).payload
    assert payload.numel() == task.params.numel() == 12 + 6 + 16
    assert payload[:18].count_nonzero() == 0
    assert payload[18:].count_nonzero() > 0


def test_shared_parameters_are_counted_once():
    layer = nn.Linear(3, 3)
    task = a_task(nn.Sequential(layer, layer))
    assert task.params.numel() == 12
    task.params.zero_()
    assert task.module(torch.ones(1, 3)).tolist() == [[0.0, 0.0, 0.0]]


def test_gradients_are_in_train_mode_and_evaluations_are_not():
    task = a_task(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4)))
    batch = random_batch([3])
    torch.manual_seed(0)
    for _ in range(2):
        assert task.gradient(batch).loss != task.gradient(batch).loss
        assert task.evaluate([batch]) == task.evaluate([batch])


def test_recomputing_and_checking_do_not_move_the_generator():
    task = a_task(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 4)))
    buffers, state = task.buffers, torch.get_rng_state()
    check_outputs(task, [3], 4)
    assert torch.equal(task.buffers, buffers)
    task.recompute_buffers([random_batch([3])])
    assert torch.equal(torch.get_rng_state(), state)


def initial(seed: int) -> torch.Tensor:
    return build_task(lambda: cnn([1, 8, 8], 10), functional.cross_entropy, seed).params


def test_initialisation_follows_from_the_seed_alone():
    torch.manual_seed(3)
    first, state = initial(5), torch.get_rng_state()
    torch.rand(10)
    assert torch.equal(initial(5), first)
    assert not torch.equal(initial(6), first)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_initialisation_is_equal_in_another_process():
    program = (
        "from asgd.models.cnn import cnn; from asgd.task import build_task\n"
        "print(build_task(lambda: cnn([1, 8, 8], 10), None, 5).params.numpy().tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == initial(5).numpy().tobytes().hex()


def test_load_names_both_sizes():
    task = a_task(cnn([1, 8, 8], 10))
    with pytest.raises(ValueError, match=r"6,090 parameters, the message 11,181,642.*same model"):
        task.load(torch.zeros(1).expand(11_181_642), task.buffers)
    before = task.params.clone()
    with pytest.raises(ValueError, match=r"0 values in its buffers, the message 3"):
        task.load(torch.zeros_like(task.params), torch.zeros(3))
    assert torch.equal(task.params, before)


def test_unusable_modules_are_refused():
    with pytest.raises(ValueError, match=r"float32, torch.float64"):
        a_task(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
    with pytest.raises(ValueError, match="none of the module's 0 parameter"):
        a_task(nn.Flatten())
    with pytest.raises(ValueError, match="none of the module's 2 parameter"):
        a_task(nn.Linear(2, 2).requires_grad_(False))


def test_no_batches_are_an_error():
    with pytest.raises(ValueError, match="at least one sample"):
        a_task().evaluate([])
    with pytest.raises(ValueError, match="at least one sample"):
        a_task().recompute_buffers(iter([]))


def test_outputs_are_checked():
    check_outputs(a_task(cnn([1, 8, 8], 10)), [1, 8, 8], 10)
    check_outputs(a_task(linear([3], 0)), [3], 0)
    with pytest.raises(ValueError, match="10 outputs but the data set has 100 classes"):
        check_outputs(a_task(cnn([1, 8, 8], 10)), [1, 8, 8], 100)
    with pytest.raises(ValueError, match=r"inputs of shape \[3, 32, 32\]"):
        check_outputs(a_task(cnn([1, 8, 8], 10)), [3, 32, 32], 10)
    with pytest.raises(ValueError, match="returned tuple for 2 samples"):
        check_outputs(a_task(nn.LSTM(3, 4)), [5, 3], 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_messages_are_on_the_cpu():
    plain, task = a_task(), build_task(batchnorm_net, functional.cross_entropy, seed=1, device="cuda")
    batch = random_batch([3])
    assert task.params.is_cuda
    assert torch.equal(task.params.cpu(), plain.params)
    own, other = task.gradient(batch), plain.gradient(batch)
    assert own.payload.device.type == task.buffers.device.type == "cpu"
    torch.testing.assert_close(own.payload, other.payload, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(task.buffers, plain.buffers, rtol=1e-4, atol=1e-5)
    task.load(own.payload, task.buffers)
    assert torch.equal(task.params.cpu(), own.payload)
    task.recompute_buffers([batch])
    check_outputs(task, [3], 4)
    assert task.evaluate([batch]).samples == 6
