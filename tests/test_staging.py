"""To and from a CUDA device. Where there is none, the same code runs with streams that do nothing."""

import copy
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from asgd.engines import shared
from asgd.flat import Flat
from asgd.models.dense import mlp
from asgd.staging import READ_ONLY, Staging
from asgd.task import Task
from tests.test_task import random_batch

SHAPE = (8,)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Driver:
    """Stands for CUDA: which memory it knows, what it was asked, and whether it takes any."""

    def __init__(self, fails: bool = False):
        self.known, self.asked, self.fails = {}, [], fails

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        self.asked.append((address, nbytes, flags))
        if not self.fails:
            self.known[address] = nbytes
        return int(self.fails)

    def cudaHostUnregister(self, address: int) -> int:
        del self.known[address]
        return 0


@pytest.fixture
def driver(monkeypatch):
    return stands_in(monkeypatch, Driver())


def stands_in(monkeypatch, driver: Driver) -> Driver:
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr("asgd.task.pinned", torch.empty_like)
    return driver


def staged(module: nn.Module) -> Task:
    task = Task(module, functional.cross_entropy)
    task.staging = Staging(task.device)
    return task


def test_memory_is_registered_once_and_let_go_of_before_it_is_freed(driver):
    task, (outbox, _), (version, _) = (
        staged(nn.Linear(8, 4)),
        shared.make(5000, torch.float32),
        shared.make(7, torch.float32),
    )
    assert task.pin(outbox) is task.pin(outbox) is outbox and task.pin(None) is None
    task.pin(version, writable=False)
    addresses = outbox.data_ptr(), version.data_ptr()
    assert driver.asked == [(addresses[0], 20_000, 0), (addresses[1], 28, READ_ONLY)]
    del outbox, version
    assert set(driver.known) == set(addresses) and next(iter(task.staging.registered.values())).numel() == 5000
    del task
    assert not driver.known


def test_memory_that_cuda_does_not_take_is_used_as_it_is(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    driver = stands_in(monkeypatch, Driver(fails=True))
    task = staged(nn.Linear(8, 4))
    task.outbox = task.pin(torch.empty(36))
    assert "memory of 144 bytes cannot be pinned, so copies of it are slower (CUDA error 1)" in caplog.text
    assert not task.staging.registered
    assert task.gradient(random_batch(SHAPE)).payload is task.outbox
    del task
    assert len(driver.asked) == 1 and not driver.known


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("with_outbox", [False, True])
def test_gradients_are_those_of_the_cpu_and_stay_as_they_are(driver, large, with_outbox, monkeypatch):
    monkeypatch.setattr(Flat, "LARGE", 0 if large else 1 << 30)
    module = mlp(SHAPE, 4, [16])
    module.unused = nn.Parameter(torch.ones(3))
    plain, task = Task(copy.deepcopy(module), functional.cross_entropy), staged(module)
    task.outbox = torch.full_like(task.params, torch.nan) if with_outbox else None
    batches = [random_batch(SHAPE, seed=seed) for seed in range(3)]
    expected = [plain.gradient(batch).payload for batch in batches]
    found = [task.gradient(batch).payload for batch in batches]
    if with_outbox:
        assert all(each is task.outbox for each in found) and torch.equal(found[0], expected[-1])
    else:
        assert all(map(torch.equal, found, expected))
    assert not task.staging.leaving


def test_a_gradient_for_the_workers_own_step_stays(driver):
    plain = Task(mlp(SHAPE, 4, [16]), functional.cross_entropy)
    task, batch = staged(copy.deepcopy(plain.module)), random_batch(SHAPE)
    task.outbox = torch.full_like(task.params, torch.nan)
    assert torch.equal(task.gradient(batch, stay=True).payload, plain.gradient(batch).payload)
    assert task.outbox.isnan().all()


def test_a_worker_sees_the_servers_versions_where_they_are_pinned(driver):
    task, (_, place) = staged(nn.Linear(8, 4)), shared.make(36, torch.float32)
    _.fill_(3.0)
    views = shared.Views(lambda vector: task.pin(vector, writable=False))
    assert views.of(place) is views.of(place) and views.of(place).eq(3.0).all()
    assert driver.asked == [(views.of(place).data_ptr(), 144, READ_ONLY)]


# With a device


@needs_cuda
@pytest.mark.parametrize("hidden", [16, 2048])  # small; so large that pieces are sent as they are made
def test_what_comes_from_a_device_is_pinned_and_right(hidden):
    plain = Task(mlp(SHAPE, 4, [hidden, hidden]), functional.cross_entropy)
    task = Task(copy.deepcopy(plain.module), functional.cross_entropy, "cuda")
    for seed in range(3):
        own, other = (each.gradient(random_batch(SHAPE, seed=seed)) for each in (task, plain))
        assert own.payload.is_pinned()
        torch.testing.assert_close(own.payload, other.payload, rtol=1e-3, atol=1e-5)
    task.load(plain.params + 1, plain.buffers)
    assert torch.equal(task.params.cpu(), plain.params + 1)


@needs_cuda
def test_shared_memory_is_pinned_for_a_device():
    task = Task(nn.Linear(8, 4), functional.cross_entropy, "cuda")
    outbox, place = shared.make(36, torch.float32)
    assert task.pin(outbox).is_pinned()
    task.pin(shared.find(place), writable=False)  # pinned where the device can; said in the log where not
    task.outbox = outbox
    assert task.gradient(random_batch(SHAPE)).payload is outbox and torch.ones(1, device="cuda").item() == 1


@needs_cuda
@pytest.mark.parametrize(
    "options", [["engine.payload=shared"], ["engine.payload=wire"], ["worker.overlap=true"]], ids=str
)
def test_workers_on_a_device_make_a_run(start, options):
    command = start(
        "device=cuda", "model=mlp", "model.hidden=[1024,1024]", "budget.epochs=null", "budget.updates=60", *options
    )
    output = command.wait()
    assert command.code == 0, output
    assert "applied 60," in output
