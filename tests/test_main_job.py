"""The main job as a person meets it: the default run, its files, its display, the installed package."""

import csv
import os
import pty
import re
import subprocess
import sys

import pytest
import torch

from asgd import checkpoints, records, results, run
from asgd.job import Job
from tests.conftest import FAST, ROOT, Command


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """The run that ``python -m asgd.run`` makes."""
    command = Command(tmp_path_factory.mktemp("default") / "run")
    command.wait()
    return command


def test_the_default_run_learns(default):
    assert default.code == 0, default.output
    summary = results.summary(default.folder)
    assert summary["ended"] == "budget" and summary["final_accuracy"] >= 0.95
    assert str(default.folder) in default.output and "accuracy" in default.output
    assert "WARNING" not in default.output and "ERROR" not in default.output


def test_every_table_has_the_agreed_columns(default):
    stats = default.folder / "stats"
    headers = {
        "ps/updates.csv": records.UPDATES,
        "ps/evaluation.csv": records.EVALUATION,
        "worker1/training_metrics.csv": records.METRICS,
        "worker2/training_metrics.csv": records.METRICS,
        **{f"{node}/system_stats.csv": records.SYSTEM for node in ("ps", "worker1", "worker2", "evaluator")},
    }
    for name, header in headers.items():
        rows = list(csv.reader((stats / name).read_text().splitlines()))
        assert rows[0] == header and len(rows) > 1 and {len(row) for row in rows} == {len(header)}, name


def test_every_push_is_accounted_for_once(default):
    events, summary = results.updates(default.folder), results.summary(default.folder)
    pushes = events[events.event == "push"]
    assert not pushes.duplicated(["worker", "round"]).any()
    applied = pushes[pushes.applied == 1]
    assert list(applied.version) == list(range(1, summary["updates"] + 1))
    assert len(pushes) == summary["applied"] + summary["dropped"] + summary["nonfinite"] + summary["late"]
    assert events.time_s.is_monotonic_increasing and (applied.staleness >= 0).all()
    rows = results.metrics(default.folder)
    assert len(rows) == len(pushes) and rows.samples.sum() == pushes.samples.sum()
    assert summary["samples"] == applied.samples.sum()


def test_epochs_and_batches_are_counted_truly(default):
    rows = results.metrics(default.folder).query("worker == 1")
    per_epoch = rows.groupby("epoch").samples.sum()
    half = -(-Job(results.parameters(default.folder)["config"]).dataset.samples() // 2)
    assert list(rows.groupby("epoch").batch.max())[:-1] == list(rows.groupby("epoch").size() - 1)[:-1]
    assert set(per_epoch[:-1]) <= {half, half - 1}


def test_parameters_say_what_the_run_was_made_with(default):
    whole = results.parameters(default.folder)
    task = Job(whole["config"]).task("cpu")
    assert whole["parameter_count"] == task.params.numel()
    assert whole["bytes_per_update"] == task.params.nbytes + task.buffers.nbytes
    assert whole["versions"]["torch"] == torch.__version__ and {"git_commit", "git_dirty", "seed"} <= set(whole)


def test_one_worker_over_rpc_is_a_plain_torch_loop_bit_for_bit(start):
    options = ["workers=1", "optimizer.momentum=0.9", "optimizer.weight_decay=0.001", "threads=1", *FAST]
    command = start(*options)
    assert command.wait() and command.code == 0, command.output
    job = Job(results.parameters(command.folder)["config"])
    torch.set_num_threads(1)
    task, batches = job.task("cpu"), job.dataset.batches(1, 1)
    optimizer = job.parts["optimizer"](task.module.parameters())
    for _ in range(60):
        batch = next(batches)
        optimizer.zero_grad()
        job.dataset.loss(task.module(batch.inputs), batch.targets).backward()
        optimizer.step()
    assert torch.equal(checkpoints.load(command.folder)["server"]["parameters"]["params"], task.params)


@pytest.mark.slow
def test_a_terminal_shows_one_table_that_is_kept_up_to_date(tmp_path):
    leader, follower = pty.openpty()
    words = [
        sys.executable,
        "-m",
        "asgd.run",
        "budget.epochs=null",
        "budget.seconds=12",
        f"hydra.run.dir={tmp_path}/run",
    ]
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "140"}
    process = subprocess.Popen(words, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    shown = b""
    while chunk := read(leader):
        shown += chunk
    assert process.wait(10) == 0
    os.close(leader)
    assert b"\x1b[1A" in shown, "each table replaces the one before"
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    for node in ("server", "worker 1", "worker 2"):
        updates = [int(each.replace(",", "")) for each in re.findall(rf"{node} +([\d,]+) ", text)]
        assert len(updates) > 1 and updates == sorted(updates) and updates[-1] > 0
    assert "ended: budget" in text


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end has been closed
        return b""


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True)
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), *map(str, tmp_path.glob("*.whl"))], check=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    words = [sys.executable, "-P", "-m", "asgd.run", "engine=threads", "budget.epochs=1", "evaluate.every=10"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(tmp_path.glob("outputs/*/*"))
    assert results.summary(folder)["ended"] == "budget"
    assert run.CONF == ROOT / "conf"
