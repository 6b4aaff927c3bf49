"""Memory that two processes share: found by proof, never by name, and gone when nobody is left."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asgd import results
from asgd.engines import shared
from tests.conftest import Command
from tests.runs import parameters

ALIKE = ("async", "local_sgd")

READER = """
import sys, torch
from asgd.engines import shared
slots = shared.find(eval(sys.argv[1]), torch.float32)
if slots:
    slots.reply.copy_(slots.payload * 2)
print(slots is not None)
"""


def in_another_process(place) -> bool:
    command = [sys.executable, "-c", READER, repr(place)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_one_process_writes_the_other_reads():
    slots, place = shared.make(1000, torch.float32)
    slots.payload.copy_(torch.arange(1000))
    assert in_another_process(place)
    assert torch.equal(slots.reply, 2.0 * torch.arange(1000))


def test_only_the_very_same_memory_is_taken():
    _, (process, descriptor, token, parameters) = shared.make(1000, torch.float32)
    _, other = shared.make(1000, torch.float32)
    assert shared.find((process, descriptor, token, parameters), torch.float32) is not None
    assert shared.find((process, descriptor, other[2], parameters), torch.float32) is None
    assert shared.find((process, descriptor, token, 5000), torch.float32) is None
    assert shared.find((process, descriptor, token, parameters * 3), torch.float64) is None
    assert shared.find((process, 10_000, token, parameters), torch.float32) is None
    assert shared.find((2**22 + 1, descriptor, token, parameters), torch.float32) is None


def test_nothing_is_left_after_many_offers():
    before, named = descriptors(), sorted(os.listdir("/dev/shm"))
    for _ in range(100):
        slots, place = shared.make(5000, torch.float32)
        assert shared.find(place, torch.float32).nbytes == slots.nbytes
        assert not shared.find((*place[:2], b"x" * shared.TOKEN, place[3]), torch.float32)
        os.close(place[1])
        del slots
    assert descriptors() <= before + 1 and sorted(os.listdir("/dev/shm")) == named


@pytest.mark.parametrize("seen", [True, False])
def test_auto_takes_what_it_can_get(seen, caplog):
    before = descriptors()
    with caplog.at_level(logging.INFO):
        slots = shared.connect("auto", 10, torch.float32, lambda place: seen)
        assert descriptors() <= before + seen
    assert (slots is not None) == seen
    assert ("shared memory, " if seen else "the network") in caplog.text


def test_wire_offers_nothing_and_shared_insists():
    assert shared.connect("wire", 10, torch.float32, lambda place: pytest.fail("offered")) is None
    with pytest.raises(ValueError, match=r"engine\.payload=shared: .*use auto or wire"):
        shared.connect("shared", 10, torch.float32, lambda place: False)


@pytest.mark.parametrize("topology", ["k_batch_async", *(pytest.param(each, marks=pytest.mark.slow) for each in ALIKE)])
def test_shared_and_wire_end_at_the_same_parameters(tmp_path, topology):
    """One worker has one order of arrival; ``k_batch_async`` holds payloads longer than their pushes."""
    options = [f"topology={topology}", "workers=1", "budget.updates=12", "evaluate.every=0", "model=mlp"]
    options += ["topology.count=3", "budget.updates=6"] if topology == "k_batch_async" else []
    runs = [Command(tmp_path / payload, *options, f"engine.payload={payload}") for payload in ("shared", "wire")]
    outputs = [run.wait() for run in runs]
    assert [run.code for run in runs] == [0, 0], outputs
    assert torch.equal(*(parameters(run.folder) for run in runs))
    logs = [Path(run.folder, "stats/worker1/worker.log").read_text() for run in runs]
    assert "through shared memory" in logs[0] and "through the network" not in logs[0] + logs[1]
    assert results.summary(runs[0].folder)["updates"] == results.summary(runs[1].folder)["updates"]
