"""The server's step on another device. Where there is none, the same code runs with streams that do nothing."""

import gc

import pytest
import torch

from asgd.engines import shared
from asgd.engines.hub import Hub
from asgd.engines.mail import Mail
from asgd.parameters import CPU, Parameters
from asgd.schedules import Cosine
from tests import runs
from tests.scripted import a_job, a_server
from tests.test_parameters import MAKES, NONE
from tests.test_staging import driver, needs_cuda  # noqa: F401

SIZE = 100
OTHER = torch.device("cpu:0")  # stands for another device: torch has it equal to "cpu" in all but its name


@pytest.fixture(autouse=True)
def plain_memory(request, monkeypatch):
    if "driver" in request.fixturenames:
        monkeypatch.setattr("asgd.parameters.pinned", torch.empty_like)


def some(make, device: torch.device = OTHER) -> Parameters:
    initial = torch.linspace(-1, 1, SIZE)
    made = Parameters(initial, make, Cosine(length=50, warmup=3))
    made.step_on(device)
    return made


def step(own: Parameters, number: int) -> None:
    own.step(torch.randn(SIZE, generator=torch.Generator().manual_seed(number)), number + 1)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_versions_are_those_of_a_step_on_the_host_and_stay(driver, make):  # noqa: F811
    here, there, given = some(make, CPU), some(make), []
    for number in range(20):
        given.append((there.snapshot(NONE).params, there.vector.detach().clone()))
        step(here, number), step(there, number)
        assert torch.equal(there.vector, here.vector) and not there.vector.equal(given[-1][1])
    assert all(map(torch.equal, *zip(*given, strict=True)))


@pytest.mark.parametrize("begun, ended", [(CPU, OTHER), (OTHER, CPU), (OTHER, OTHER)], ids=str)
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_checkpoint_goes_on_wherever_it_was_made(driver, make, begun, ended):  # noqa: F811
    first, second, whole = some(make, begun), some(make, ended), some(make, CPU)
    for number in range(20):
        step(whole, number)
        step(first if number < 9 else second, number)
        if number == 8:
            second.load_state_dict(state := first.state_dict())
            kept = state["params"].clone()
    assert torch.equal(second.vector, whole.vector)
    assert torch.equal(state["params"], kept) and second.version == 20


def test_memory_that_is_shared_with_workers_is_registered_as_long_as_they_are_there(driver):  # noqa: F811
    mail = Mail(Hub(a_server(2), lambda: 0.0))
    mail.hub.server.parameters.step_on(OTHER)
    (outbox, place), (second, other) = shared.make(3, torch.float32), shared.make(3, torch.float32)
    mail.share(1, place), mail.share(2, other)
    blocks = [block.data_ptr() for block in mail.hub.server.parameters.blocks.blocks]
    theirs = [mail.outboxes[rank].data_ptr() for rank in (1, 2)]
    assert set(driver.known) == {*blocks, *theirs} and len(blocks) == 1
    mail.forget(1), mail.forget(1)
    assert set(driver.known) == {*blocks, theirs[1]}
    outbox.fill_(1.0), second.fill_(2.0)
    del mail
    gc.collect()
    assert not driver.known


@pytest.mark.parametrize("topology", ["async", "sync", "easgd", "dana_zero"])
def test_a_run_has_the_same_versions_and_is_replayed(driver, topology, tmp_path):  # noqa: F811
    options = (f"topology={topology}", "engine=virtual", "optimizer.momentum=0.5", "budget.updates=40", "workers=3")
    if topology == "easgd":
        options = tuple(word for word in options if "momentum" not in word)
    job = a_job(*options, limits=runs.BRIEF)
    job.server_device = OTHER
    runs.finished(tmp_path / "there", job)
    runs.run(tmp_path / "here", *options)
    assert torch.equal(runs.parameters(tmp_path / "there"), runs.parameters(tmp_path / "here"))
    assert runs.record(tmp_path / "there") == runs.record(tmp_path / "here")
    assert runs.replayed(tmp_path / "there", tmp_path / "again")["events"] > 40


def test_only_nodes_with_a_server_need_its_device():
    job = a_job("role=worker", "rank=1", "server.device=cuda:63")
    assert job.server_device == CPU


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_steps_may_go_there_at_any_time(driver, make):  # noqa: F811
    here, there = some(make, CPU), some(make, CPU)
    for number in range(20):
        if number == 7:
            there.step_on(OTHER)
        step(here, number), step(there, number)
    assert there.elsewhere and torch.equal(there.vector, here.vector)


@needs_cuda
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_step_on_a_device_is_that_of_the_host(make):
    here, there = some(make, CPU), some(make, torch.device("cuda"))
    for number in range(20):
        step(here, number), step(there, number)
    torch.testing.assert_close(there.vector, here.vector)
    assert there.snapshot(NONE).params.is_pinned()
    assert not any(each.is_cuda for each in there.state_dict()["optimizer"]["state"].get(0, {}).values())


@needs_cuda
@pytest.mark.parametrize("options", [["engine.payload=shared"], ["engine.payload=wire"], ["engine=zmq"]], ids=str)
def test_server_and_workers_on_a_device_make_a_run(start, options):
    command = start(
        "server.device=cuda", "device=cuda", "model=mlp", "model.hidden=[1024,1024]", "optimizer.momentum=0.5",
        "budget.epochs=null", "budget.updates=60", *options,
    )  # fmt: skip
    output = command.wait()
    assert command.code == 0, output
    assert "applied 60," in output
