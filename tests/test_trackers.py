"""Trackers: what they are given, what they keep, and that a run never depends on them."""

import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import pytest

from asgd import command_line, results
from asgd.messages import Event
from asgd.trackers import Mlflow, TensorBoard, Tracker, Wandb, base
from asgd.trackers.tracking import Tracking
from asgd.watch.progress import MEMORY
from tests.runs import finished, run
from tests.scripted import DIGITS, QUADRATIC, a_job

VIRTUAL = ("engine=virtual", "workers=3", "timing=exponential", "track.every=10", "evaluate.every=20")


class Kept(Tracker):
    """Keeps what it is given; fails where ``failing`` says, waits at ``gate`` where there is one."""

    option = "tracker=kept"

    def __init__(self, failing: str | None = None, gate: threading.Event | None = None):
        self.failing, self.gate, self.calls = failing, gate, defaultdict(list)

    def call(self, name: str, *content) -> None:
        self.calls[name].append(content)
        if name == self.failing:
            raise ConnectionError("nobody answers")

    def open(self, folder, parameters, begun, version) -> None:
        if self.gate:
            self.gate.wait()
        self.call("open", folder, parameters, begun, version)

    def write(self, points) -> None:
        self.call("write", *points)

    def close(self, summary) -> None:
        self.call("close", summary)

    @property
    def points(self) -> list:
        return [point for points in self.calls["write"] for point in points]


def tracked(folder, monkeypatch, *options: str, trackers: list, problem=QUADRATIC):
    """A run with these trackers."""
    job = a_job(*options, problem=problem, limits=("budget.epochs=null", "checkpoint.every=10"))
    monkeypatch.setattr(job, "trackers", lambda: trackers)
    return finished(folder, job)


def expected(folder, every: int) -> list[tuple[int, float, float, float]]:
    """(version, seconds, loss, staleness) at each version that ``every`` divides, from the run's own table."""
    points, loss, staleness, count = [], 0.0, 0.0, 0
    for row in results.updates(folder).query("applied == 1").itertuples():
        count = min(count + 1, MEMORY)
        loss, staleness = loss + (row.loss - loss) / count, staleness + (row.staleness - staleness) / count
        if row.version % every == 0:
            points.append((row.version, row.time_s, loss, staleness))
    return points


# What they are given


def test_a_point_for_every_so_many_updates_and_for_each_evaluation(tmp_path, monkeypatch):
    kept = Kept()
    folder = tracked(tmp_path, monkeypatch, *VIRTUAL, "budget.updates=60", trackers=[kept])
    training = [point for point in kept.points if "train/loss" in point.figures]
    wanted, rate = expected(folder, 10), results.parameters(folder)["config"]["optimizer"]["lr"]
    assert [(point.version, point.seconds) for point in training] == [each[:2] for each in wanted]
    for point, (_, _, loss, staleness) in zip(training, wanted, strict=True):
        figures = point.figures
        assert figures["train/loss"] == pytest.approx(loss) and figures["train/staleness"] == pytest.approx(staleness)
        assert figures["train/learning_rate"] == rate
    for before, after in pairwise(training):
        rate = after.figures["train/samples"] - before.figures["train/samples"]
        assert after.figures["train/samples_per_s"] == pytest.approx(rate / (after.seconds - before.seconds))
    judged = [(p.version, p.figures["validation/loss"]) for p in kept.points if "validation/loss" in p.figures]
    table = results.evaluation(folder)
    assert judged == list(zip(table.version, table.loss, strict=True)) and [each[0] for each in judged] == [20, 40, 60]
    ((_, parameters, _, version),) = kept.calls["open"]
    assert (parameters["track.every"], parameters["workers"], version) == (10, 3, 0)
    assert kept.calls["close"] == [(results.summary(folder),)]


def test_nothing_is_changed_by_them(tmp_path, monkeypatch):
    plain = run(tmp_path / "plain", *VIRTUAL, "budget.updates=40")
    watched = tracked(tmp_path / "watched", monkeypatch, *VIRTUAL, "budget.updates=40", trackers=[Kept()])
    assert results.updates(plain).equals(results.updates(watched))
    assert results.evaluation(plain).equals(results.evaluation(watched))


@pytest.mark.parametrize("failing", ["open", "write", "close"])
def test_one_that_fails_is_reported_once_and_the_others_and_the_run_go_on(tmp_path, monkeypatch, caplog, failing):
    broken, kept = Kept(failing), Kept()
    folder = tracked(tmp_path, monkeypatch, *VIRTUAL, "budget.updates=40", trackers=[broken, kept])
    assert results.summary(folder)["ended"] == "budget" and len(broken.calls[failing]) == 1
    assert caplog.text.count("tracker=kept has failed and gets nothing any more, the run goes on: nobody answers") == 1
    assert [point.version for point in kept.points if "train/loss" in point.figures] == [10, 20, 30, 40]


def test_a_slow_one_holds_up_nobody_and_what_it_missed_is_counted(caplog):
    gate = threading.Event()
    kept = Kept(gate=gate)
    tracking = Tracking([kept], 1, lambda tracker: tracker.open(None, {}, 0.0, 0))
    for version in range(tracking.PENDING + 7):
        tracking.evaluation((0.0, version, version, 1, 0.5, None, None))
    gate.set()
    tracking.close({"ended": "budget"}, 30)
    assert [point.version for point in kept.points] == list(range(tracking.PENDING))
    assert "7 points were left out" in caplog.text and kept.calls["close"] == [({"ended": "budget"},)]


def test_one_that_never_ends_does_not_keep_the_run(caplog):
    gate = threading.Event()
    tracking = Tracking([Kept(gate=gate)], 1, lambda tracker: tracker.open(None, {}, 0.0, 0))
    tracking.close({}, 0.01)
    assert "tracker=kept have not ended within 0.01 s" in caplog.text
    gate.set()
    tracking.thread.join()


def test_what_was_not_applied_is_not_in_the_means():
    tracking = Tracking([], 1, lambda tracker: None)
    for applied, loss in ((1, 1.0), (0, 100.0), (1, 3.0)):
        tracking.event(Event(0.0, "push", 1, 0, 0, 0, applied, loss, None, 1))
    tracking.event(Event(0.0, "join", 1, 0))
    tracking.close({}, 30)
    assert (tracking.loss.value, tracking.staleness.value) == (2.0, 0.0)


# Before a run


@pytest.mark.parametrize("option", ["tensorboard=true", "tracker=mlflow", "tracker=wandb"])
def test_a_missing_package_is_named_before_anything_is_started(option, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    extra = option.removeprefix("tracker=").removesuffix("=true")
    with pytest.raises(ValueError, match=rf"^{option}: needs .*{extra}.*; pip install 'asgd\[{extra}\]'$"):
        a_job(option).check()
    a_job(option, "role=worker", "rank=1", "engine=rpc").check()  # only the server's node writes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("track.every=0",), "track.every=0: 1 or more"),
        (("tracker=wandb", "tracker.mode=off"), "mode=off: one of online, offline, disabled"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(Exception, match=message):
        a_job(*options).check()


def test_a_replay_is_tracked_as_it_says_itself(tmp_path):
    source = run(tmp_path, "engine=virtual", "workers=2", "budget.updates=10")
    words = ["engine=replay", f"engine.source={source}", "tracker=mlflow", "trace=true"]
    config = command_line.adopted(a_job(*words, limits=()).config, words)
    assert (config["tracker"]["experiment"], config["trace"], config["tensorboard"]) == ("asgd", True, False)


# What they keep


def scalars(folder) -> dict[str, list]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]} | {"text": events.Tags()["tensors"]}


def test_tensorboard_has_the_curves_over_versions_and_the_runs_own_time(tmp_path):
    pytest.importorskip("tensorboard")
    folder = run(tmp_path, *VIRTUAL, "budget.updates=60", "tensorboard=true")
    found, wanted = scalars(folder), expected(folder, 10)
    assert [event.step for event in found["train/loss"]] == [10, 20, 30, 40, 50, 60]
    assert [event.value for event in found["train/loss"]] == pytest.approx([each[2] for each in wanted], rel=1e-5)
    assert [event.value for event in found["train/staleness"]] == pytest.approx([each[3] for each in wanted], rel=1e-5)
    times = [event.wall_time - found["train/loss"][0].wall_time for event in found["train/loss"]]
    assert times == pytest.approx([each[1] - wanted[0][1] for each in wanted], abs=1e-5)
    table = results.evaluation(folder)
    assert [(event.step, event.value) for event in found["validation/loss"]] == [
        (version, pytest.approx(loss)) for version, loss in zip(table.version, table.loss, strict=True)
    ]
    assert found["summary/updates"][0].value == 60 and "parameters/text_summary" in found["text"]


def test_tensorboard_of_a_resumed_run_goes_on_where_the_checkpoint_was(tmp_path):
    pytest.importorskip("tensorboard")
    first = run(tmp_path, *VIRTUAL, "budget.updates=40", "tensorboard=true")
    more = a_job(*VIRTUAL, "budget.updates=80", "tensorboard=true", f"resume={first}", limits=LIMITS)
    finished(first, more)
    found = scalars(first)
    assert [event.step for event in found["train/loss"]] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert [event.step for event in found["validation/loss"]] == [20, 40, 60, 80]


LIMITS = ("budget.epochs=null", "checkpoint.every=10")


@pytest.mark.slow
def test_mlflow_has_metrics_parameters_and_summary_and_a_resumed_run_goes_on(tmp_path):
    """The database takes its time to be made."""
    for package in Mlflow.packages:
        pytest.importorskip(package)
    from mlflow.tracking import MlflowClient

    options = (*VIRTUAL, "tracker=mlflow")
    first = run(tmp_path, *options, "budget.updates=20")
    finished(first, a_job(*options, "budget.updates=40", f"resume={first}", limits=LIMITS))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path.as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("asgd").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["track.every"] == "10"
    assert found.data.tags["ended"] == "budget" and found.data.metrics["summary/updates"] == 40
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted(each.step for each in history) == [10, 20, 30, 40]
    loss = results.evaluation(tmp_path).loss.iloc[-1]
    assert found.data.metrics["validation/loss"] == pytest.approx(loss)


@pytest.mark.slow
def test_wandb_offline_has_the_history(tmp_path):
    pytest.importorskip("wandb")
    folder = run(tmp_path, *VIRTUAL, "budget.updates=40", "tracker=wandb", "tracker.mode=offline")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    history, config = read_wandb(path)
    losses = {int(row["updates"]): float(row["train/loss"]) for row in history if "train/loss" in row}
    assert losses == {each[0]: pytest.approx(each[2]) for each in expected(folder, 10)}
    judged = {int(row["updates"]): float(row["validation/loss"]) for row in history if "validation/loss" in row}
    table = results.evaluation(folder)
    assert judged == {version: pytest.approx(loss) for version, loss in zip(table.version, table.loss, strict=True)}
    assert config["track.every"] == "10"
    assert path.stem == f"run-{(folder / Wandb.MARK).read_text()}"


def records(content: bytes) -> Iterator[bytes]:
    """Of an offline file: a head of 7 bytes, then LevelDB's log format, blocks of 32 KiB with parts of records."""
    at, record, block = 7, b"", 1 << 15
    while at < len(content):
        if block - at % block < 7:  # too short for the head of a part
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_wandb(path) -> tuple[list[dict], dict]:
    """The rows and the configuration of an offline file."""
    from wandb.proto import wandb_internal_pb2 as protocol

    history, config = [], {}
    for data in records(path.read_bytes()):
        record = protocol.Record.FromString(data)
        history += [{each.key or each.nested_key[0]: each.value_json for each in record.history.item}]
        config |= {each.key: each.value_json for each in record.run.config.update}
    return history, config


def test_real_workers_and_the_digits_are_tracked_as_well(tmp_path):
    pytest.importorskip("tensorboard")
    options = ("engine=threads", "workers=2", "budget.updates=20", "track.every=5", "tensorboard=true")
    folder = run(tmp_path, *options, problem=DIGITS)
    assert [event.step for event in scalars(folder)["train/loss"]] == [5, 10, 15, 20]
    assert TensorBoard.packages == ("tensorboard",)
