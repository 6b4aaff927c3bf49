"""One step to other memory has the bits of torch.optim, with every option, and leaves the optimizer as that would."""

import copy
import logging
import sys
from functools import partial

import pytest
import torch

from asgd import kernels
from asgd.kernels import Stepper

try:
    from asgd import one_pass
except ImportError:
    compiled = False
else:
    compiled = True

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
TAKEN = {
    "plain": partial(SGD, lr=0.1),
    "plain, fused": partial(SGD, lr=0.1, fused=True),
    "plain, maximize": partial(SGD, lr=0.1, maximize=True),
    "decay": partial(SGD, lr=0.1, weight_decay=0.03, fused=True),
    "momentum": partial(SGD, lr=0.1, momentum=0.9, fused=True),
    "dampening": partial(SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01, fused=True),
    "nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True),
    "momentum, maximize": partial(SGD, lr=0.1, momentum=0.9, maximize=True, fused=True),
    "adam": partial(ADAM, lr=0.01, fused=True),
    "adam, all": partial(ADAM, lr=0.01, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1, amsgrad=True, fused=True),
    "adam, maximize": partial(ADAM, lr=0.01, maximize=True, fused=True),
    "adamw": partial(ADAMW, lr=0.01, fused=True),
    "adamw, all": partial(ADAMW, lr=0.01, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1, amsgrad=True, fused=True),
    "adam, decoupled": partial(ADAM, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, fused=True),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Waiting for a second thread takes far longer than these steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Doubled(SGD):
    """Another method under a class of torch: each step is made twice."""

    def step(self, closure=None):
        super().step(closure)
        super().step(closure)


LEFT = {
    "momentum one by one": partial(SGD, lr=0.1, momentum=0.9),
    "adam one by one": partial(ADAM, lr=0.01),
    "another method": partial(torch.optim.Adagrad, lr=0.1),
    "a subclass": partial(Doubled, lr=0.1),
    "a tensor as rate": partial(SGD, lr=torch.tensor(0.1)),
}


class Trained:
    """``size`` parameters and their optimizer, which steps as ``torch.optim`` does or to other memory."""

    def __init__(self, make, size: int, dtype=torch.float32):
        start = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(size))
        self.params = torch.nn.Parameter(start)
        self.optimizer = make([self.params])
        self.stepper, self.following = Stepper(self.optimizer), None

    def in_place(self, gradient: torch.Tensor) -> None:
        self.params.grad = gradient.clone()
        self.optimizer.step()

    def elsewhere(self, gradient: torch.Tensor) -> None:
        self.following = torch.full_like(gradient, torch.nan)
        self.stepper.into(self.following, gradient)

    def schedule(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def gradients(size: int, count: int = 100, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(size, dtype=dtype, generator=generator) for _ in range(count)]


def same_state(own: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    """Whether the state dicts have the same entries, tensors of the same kinds and bits."""
    own, other = own.state_dict()["state"], other.state_dict()["state"]
    assert own.keys() == other.keys()
    pairs = [(own[each], other[each]) for each in own]
    return all(a.keys() == b.keys() and all(identical(a[name], b[name]) for name in a) for a, b in pairs)


def identical(a, b) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return a is b is None


@pytest.fixture(params=[1 << 21, 0], ids=["small", "large"])
def sized(request, monkeypatch):
    """From how many numbers on a compiled loop is taken where there is one."""
    monkeypatch.setattr(kernels, "LARGE", request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("size", [1, 37, 4099])  # not what a vector register holds
@pytest.mark.parametrize("name", TAKEN | LEFT)
def test_a_hundred_steps_have_the_bits_of_torch(name, size, dtype, sized):
    make = (TAKEN | LEFT)[name]
    plain, ours = Trained(make, size, dtype), Trained(make, size, dtype)
    for number, gradient in enumerate(gradients(size, dtype=dtype)):
        if name != "a tensor as rate":
            plain.schedule(0.1 / (1 + number)), ours.schedule(0.1 / (1 + number))
        plain.in_place(gradient), ours.elsewhere(gradient)
        assert torch.equal(ours.params, plain.params)
    assert same_state(ours.optimizer, plain.optimizer)


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("name", ["nesterov", "adamw", "another method"])
def test_parts_with_a_thread_each_have_the_bits_of_one(name, shards, sized, monkeypatch):
    if compiled:
        monkeypatch.setattr(one_pass, "PART", 70_000)
    make = TAKEN.get(name) or LEFT[name]
    plain, ours = Trained(make, 300_001), Trained(make, 300_001)
    for gradient in gradients(300_001, 5):
        torch.set_num_threads(1)
        plain.in_place(gradient)
        torch.set_num_threads(shards)
        ours.elsewhere(gradient)
    assert torch.equal(ours.params, plain.params)


@pytest.mark.skipif(not compiled, reason="numba is not installed")
@pytest.mark.parametrize("size", [1000, 70_000, 300_001])
def test_every_number_is_in_one_part(size, monkeypatch):
    monkeypatch.setattr(one_pass, "PART", 20_000)
    torch.set_num_threads(4)
    counts, parts = torch.zeros(size), []

    def loop(part, one):
        parts.append(len(part))
        part += one

    one_pass.over_parts(loop, (counts,), (1.0,))
    assert counts.eq(1).all() and len(parts) == min(4, max(1, size // 20_000))
    assert sum(length % one_pass.REGISTER != 0 for length in parts) <= 1


COMPILED = "dampening", "nesterov", "momentum, maximize", "adam", "adam, maximize", "adamw", "adam, decoupled"


@pytest.mark.skipif(not compiled, reason="numba is not installed")
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_loop_makes_the_steps_of_large_vectors(name, monkeypatch, caplog):
    monkeypatch.setattr(kernels, "LARGE", 4099)
    with caplog.at_level(logging.INFO):
        assert Trained(TAKEN[name], 4098).stepper.one_pass is None and not caplog.text
        assert Trained(TAKEN[name], 4099).stepper.one_pass
    assert "optimizer: one pass over the parameters" in caplog.text


@pytest.mark.skipif(not compiled, reason="numba is not installed")
def test_a_compiled_loop_with_other_bits_is_not_taken(monkeypatch, caplog):
    """As on a processor where torch rounds in another way."""
    true = one_pass.sgd

    def other(following, *others):
        true(following, *others)
        following[77] = torch.nextafter(following[77], torch.tensor(9.0))

    monkeypatch.setattr(kernels, "LARGE", 0), monkeypatch.setattr(one_pass, "sgd", other)
    with caplog.at_level(logging.INFO):
        assert Trained(TAKEN["momentum"], 37).stepper.one_pass is None
    assert "two passes; a compiled loop has other bits" in caplog.text


def test_without_numba_there_are_two_passes(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "LARGE", 0), monkeypatch.setitem(sys.modules, "asgd.one_pass", None)
    monkeypatch.delattr("asgd.one_pass", raising=False)
    with caplog.at_level(logging.INFO):
        plain, ours = Trained(TAKEN["momentum"], 37), Trained(TAKEN["momentum"], 37)
    assert "pip install numba" in caplog.text
    for gradient in gradients(37, 3):
        plain.in_place(gradient), ours.elsewhere(gradient)
    assert torch.equal(ours.params, plain.params)


def test_nesterovs_step_is_the_one_of_the_paper():
    ours, velocity = Trained(TAKEN["nesterov"], 50, torch.float64), torch.zeros(50, dtype=torch.float64)
    expected = ours.params.detach().clone()
    for gradient in gradients(50, dtype=torch.float64):
        ours.elsewhere(gradient)
        slope = gradient + 0.01 * expected
        velocity = 0.9 * velocity + slope
        expected = expected - 0.1 * (slope + 0.9 * velocity)
    torch.testing.assert_close(ours.params.detach(), expected, rtol=1e-12, atol=1e-12)


def test_adamws_step_is_the_one_of_the_paper():
    ours, expected = Trained(partial(ADAMW, lr=0.01, weight_decay=0.1, fused=True), 50, torch.float64), None
    expected, mean, square = ours.params.detach().clone(), 0.0, 0.0
    for t, gradient in enumerate(gradients(50, dtype=torch.float64), start=1):
        ours.elsewhere(gradient)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        direction = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        expected = (1 - 0.01 * 0.1) * expected - 0.01 * direction
    torch.testing.assert_close(ours.params.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", TAKEN | LEFT)
def test_what_was_the_parameters_memory_is_not_written(name, sized):
    ours = Trained((TAKEN | LEFT)[name], 37)
    for gradient in gradients(37, 5):
        before, kept = ours.params.data, ours.params.detach().clone()
        ours.elsewhere(gradient)
        assert torch.equal(before, kept) and not torch.equal(ours.params, kept)
        assert ours.params.data_ptr() == ours.following.data_ptr()
        assert ours.params.grad is None


@pytest.mark.parametrize("name", TAKEN)
def test_torchs_own_step_is_called_for_the_state_only(name, monkeypatch, sized):
    ours, calls = Trained(TAKEN[name], 37), []
    first, *others = gradients(37, 5)
    ours.elsewhere(first)
    before = ours.params.clone()
    monkeypatch.setattr(type(ours.optimizer), "step", lambda optimizer: calls.append(optimizer))
    for gradient in others:
        ours.elsewhere(gradient)
    assert calls == [] and not torch.equal(before, ours.params)


@pytest.mark.parametrize("name", LEFT)
def test_others_step_as_they_are(name):
    ours = Trained(LEFT[name], 37)
    ours.elsewhere(gradients(37, 1)[0])
    assert ours.stepper.kernel(ours.optimizer.param_groups[0]) is None


def test_who_listens_to_steps_hears_them():
    ours, heard = Trained(TAKEN["momentum"], 37), []
    ours.optimizer.register_step_post_hook(lambda *_: heard.append(len(heard)))
    for gradient in gradients(37, 3):
        ours.elsewhere(gradient)
    assert heard == [0, 1, 2]


@pytest.mark.parametrize("name", TAKEN)
def test_checkpoints_pass_between_torch_and_the_kernels(name, sized):
    plain, ours, resumed = (Trained(TAKEN[name], 37) for _ in range(3))
    some = gradients(37, 6)
    for gradient in some[:3]:
        plain.in_place(gradient), ours.elsewhere(gradient)
    state = copy.deepcopy(plain.optimizer.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(ours.optimizer.state_dict()))
    resumed.params.data.copy_(ours.params.data)
    resumed.optimizer.load_state_dict(state)
    for gradient in some[3:]:
        plain.in_place(gradient), resumed.elsewhere(gradient)
    assert torch.equal(plain.params, resumed.params)
