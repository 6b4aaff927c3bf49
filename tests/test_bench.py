"""The bench measures what it says: every way moves the parameters, and what fails is told and leaves nothing."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch

from asgd import words
from asgd.bench import __main__ as command
from asgd.bench import report, trial
from asgd.bench.ways import WAYS
from asgd.bench.work import GRADIENT, Load, check, expected, sgd, shapes_of
from tests.conftest import ROOT


def bench(*options: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "asgd.bench", "model=10000", "workers=2", "seconds=0.2", "trials=1", *options]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def measured(path, *options: str) -> dict:
    done = bench(f"out={path}", *options)
    assert done.returncode == 0, done.stderr
    assert "10000: 10,000 parameters, 2 workers" in done.stdout
    return json.loads(path.read_text())


def test_a_table_and_a_file(tmp_path):
    found = measured(tmp_path / "new" / "bench.json", "variants=floor,slot")
    assert found["parameters"] == 10_000 and [each["way"] for each in found["rows"]] == ["slot", "floor"]
    slot, floor = found["rows"]
    assert [slot["workers"], floor["workers"]] == [2, 0]
    assert slot["over_floor"] == slot["steps_s"] / floor["steps_s"] and slot["over_tutorial"] is None
    assert slot["trials"] == [{"steps_s": slot["steps_s"], "cpu_ms": slot["cpu_ms"]}]
    assert min(slot["steps_s"], slot["cpu_ms"], floor["steps_s"], floor["cpu_ms"]) > 0


@pytest.mark.slow
def test_every_way_moves_the_parameters(tmp_path):
    """Each process of each way compares its parameters with the formula; a difference ends the command."""
    found = measured(tmp_path / "bench.json")
    assert [each["way"] for each in found["rows"]] == [name for name, way in WAYS.items() if way.possible]


def test_the_formula_is_torchs_optimizer():
    vector = torch.nn.Parameter(torch.zeros(3))
    optimizer = sgd([vector])
    for steps in range(1, 200):
        vector.grad = torch.full((3,), GRADIENT)
        optimizer.step()
        check(steps, [vector.data], "torch")
    with pytest.raises(RuntimeError, match="torch: 198 updates lead to"):
        check(198, [vector.data], "torch")


def test_a_mix_of_versions_is_found():
    with pytest.raises(RuntimeError, match="5 updates lead to"):
        check(5, [torch.tensor([expected(5)] * 9 + [expected(4)])], "worker 1")


@pytest.mark.parametrize(
    ("model", "size"), [("resnet18", 11_689_512), ("resnet50", 25_557_032), ("1_000_003", 1_000_003)]
)
def test_models_have_their_sizes(model, size):
    assert Load(shapes_of(model), 1, 1, 1.0).size == size


def test_medians_and_ratios():
    trials = {
        ("slot", 2): [trial.Sample(rate, rate / 1000) for rate in (9.0, 30.0, 12.0)],
        ("tutorial", 2): [trial.Sample(3.0, 0.2)],
        ("floor", 0): [trial.Sample(48.0, 0.02)],
    }
    slot = report.summary("m", 7, trials)["rows"][0]
    assert slot["steps_s"] == 12.0 and slot["over_tutorial"] == 4.0 and slot["over_floor"] == 0.25
    assert report.cells(slot)[1:] == ["12.0 (9.0-30.0)", "12.0 (9.0-30.0)", "4.00", "0.25"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model=resnet5000", "model=resnet5000: a number of parameters, or a classifier of torchvision"),
        ("model=3", "model=3: at least 16 parameters"),
        ("workers=1,x", "workers=1,x: different numbers from 1 on"),
        ("workers=2,2", "workers=2,2: different numbers from 1 on"),
        ("variants=slott", r"variants=slott: no slott \(did you mean slot\?\); all, or slot,shards"),
        ("trials=0", "trials=0: must be more than 0"),
        ("seconds=-1", "seconds=-1.0: must be more than 0"),
        ("second=1", r"no option second \(did you mean seconds\?\)"),
    ],
)
def test_mistakes_are_named(word, said):
    with pytest.raises(ValueError, match=said):
        command.main(words.parse(command.Options, [word]))


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(WAYS, "ray", WAYS["ray"]._replace(package="no_such_package"))
    assert "ray" not in command.chosen("all") and "slot" in command.chosen("all")
    with pytest.raises(
        ValueError, match=r"variants=ray: ray needs no_such_package; pip install asgd\[no_such_package\]"
    ):
        command.chosen("ray")


def fails(meter):
    raise LookupError("no such luck")


def dies(meter):
    os.kill(os.getpid(), signal.SIGKILL)


def waits(meter):
    meter.idle()


@pytest.mark.parametrize(("work", "said"), [(fails, "LookupError: no such luck"), (dies, "was it killed")])
def test_a_failure_is_told_and_ends_the_others(work, said):
    """The server waits for a worker that will never come."""
    with pytest.raises(RuntimeError, match=said):
        trial.run(waits, work, Load([(16,)], 1, 1, 0.1))
    running = [each.name() for each in psutil.Process().children(recursive=True) if each.status() != "zombie"]
    assert "bench0" not in running


def test_ctrl_c_ends_everything():
    words = [sys.executable, "-m", "asgd.bench", "model=10000", "workers=2", "seconds=60", "variants=slot"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        parent = psutil.Process(process.pid)
        while len(parent.children(recursive=True)) < 3:
            assert process.poll() is None
        children = parent.children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in error
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
