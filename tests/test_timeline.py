"""The timeline of a run: what its slices say, and the file against the Trace Event Format."""

import csv
import json
from collections import defaultdict
from itertools import pairwise

import pytest

from asgd import results
from asgd.trace import __main__ as command
from asgd.trace import file
from asgd.trace.record import Record
from asgd.trace.timeline import COMPUTING, EXCHANGING, SERVER, timeline
from tests.runs import run

UNTIL = {"M": set(), "X": {"ts", "dur"}, "s": {"ts", "id", "cat"}, "f": {"ts", "id", "cat", "bp"}}
ALTERNATE = ("timing=none", "timing.compute=[1.0,2.0]")  # seconds of worker 1 and 2
REAL = ("engine=threads", "workers=3", "budget.updates=30")


def virtual(folder, *options: str):
    """The slices of a run of two workers, by node and track, as (name, begin, end), and its arrows."""
    timing = () if any(option.startswith("timing=") for option in options) else ALTERNATE
    made = run(folder, "engine=virtual", *timing, "workers=2", *options)
    slices, arrows = timeline(Record(made))
    tracks = defaultdict(list)
    for each in sorted(slices, key=lambda each: (each.begin, each.end)):
        tracks[each.node, each.track].append((each.name, each.begin, each.end))
    return tracks, arrows


def opened(folder) -> list[dict]:
    """The events of the file, which is checked against the format."""
    whole = json.loads((folder / "trace.json").read_text())
    assert set(whole) == {"displayTimeUnit", "otherData", "traceEvents"} and whole["displayTimeUnit"] in ("ms", "ns")
    check_fields(whole["traceEvents"])
    check_tracks(whole["traceEvents"])
    check_flows(whole["traceEvents"])
    return whole["traceEvents"]


def check_fields(events: list[dict]) -> None:
    for event in events:
        assert {"name", "ph", "pid", "tid"} | UNTIL[event["ph"]] <= set(event), event
        assert all(isinstance(event[name], int) for name in ("pid", "tid")) and isinstance(event["name"], str)
        assert event["ts"] >= 0 and event.get("dur", 0) >= 0
    timed = [event for event in events if event["ph"] != "M"]
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    named = {(event["name"], event["pid"], event["tid"]) for event in events if event["ph"] == "M"}
    for event in timed:
        assert {("process_name", event["pid"]), ("thread_name", event["pid"])} <= {each[:2] for each in named}
        assert ("thread_name", event["pid"], event["tid"]) in named


def check_tracks(events: list[dict]) -> None:
    """On each track one slice ends before the next one begins."""
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((round(event["ts"] * 1e3), round(event["dur"] * 1e3)))
    assert len({pid for pid, _ in tracks}) >= 2
    for slices in tracks.values():
        assert all(begin + length <= later for (begin, length), (later, _) in pairwise(slices))


def check_flows(events: list[dict]) -> None:
    """Every arrow has one start and one end, in this order, each within a slice of its track."""
    starts, ends = ({e["id"]: e for e in events if e["ph"] == phase} for phase in "sf")
    assert starts and starts.keys() == ends.keys() and len(starts) == sum(e["ph"] == "s" for e in events)
    slices = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for identity, start in starts.items():
        end = ends[identity]
        assert (start["name"], start["cat"]) == (end["name"], end["cat"]) and start["ts"] <= end["ts"]
        assert end["bp"] == "e" and start["pid"] != end["pid"]
        for each in (start, end):
            assert any(a - 1e-3 <= each["ts"] <= b + 1e-3 for a, b in slices[each["pid"], each["tid"]])


# Virtual time


def test_workers_that_never_wait_compute_all_the_time(tmp_path):
    tracks, arrows = virtual(tmp_path, "budget.updates=4")
    assert tracks[1, COMPUTING] == [("compute", 0.0, 1.0), ("compute", 1.0, 2.0), ("compute", 2.0, 3.0)]
    assert tracks[2, COMPUTING] == [("compute", 0.0, 2.0)]
    applied = [(name, begin) for name, begin, _ in tracks[SERVER, "serving"]]
    assert applied == [("join", 0.0), ("join", 0.0), *(("apply", time) for time in (1.0, 2.0, 2.0, 3.0))]
    assert not tracks[1, EXCHANGING] and len(arrows) == 8


def test_messages_on_their_way(tmp_path):
    links = ("timing.uplink.latency=0.25", "timing.downlink.latency=0.5")
    tracks, _ = virtual(tmp_path, *links, "budget.updates=3")
    ways = [("pull", 0.0, 0.5), ("push", 1.5, 1.75), ("pull", 1.75, 2.25), ("push", 3.25, 3.5)]
    assert tracks[1, EXCHANGING] == ways
    assert tracks[1, COMPUTING] == [("compute", 0.5, 1.5), ("compute", 2.25, 3.25)]
    assert tracks[2, COMPUTING] == [("compute", 0.5, 2.5)]


def test_the_server_serves_before_the_event(tmp_path):
    tracks, _ = virtual(tmp_path, "timing.service=0.125", "budget.updates=3")
    assert [each for each in tracks[SERVER, "serving"] if each[0] == "apply"] == [
        ("apply", 1.0, 1.125),
        ("apply", 2.0, 2.125),
        ("apply", 2.125, 2.25),
    ]


def test_in_step_the_faster_worker_waits_for_the_slower(tmp_path):
    tracks, arrows = virtual(tmp_path, "topology=sync", "budget.updates=3")
    assert tracks[1, COMPUTING] == [("compute", 0.0, 1.0), ("compute", 2.0, 3.0), ("compute", 4.0, 5.0)]
    assert tracks[1, EXCHANGING] == [("wait", 1.0, 2.0), ("wait", 3.0, 4.0)]
    assert tracks[2, COMPUTING] == [("compute", 0.0, 2.0), ("compute", 2.0, 4.0), ("compute", 4.0, 6.0)]
    assert not tracks[2, EXCHANGING]
    given = [(arrow.source[2], arrow.target[0]) for arrow in arrows if arrow.name == "version"]
    assert sorted(given) == [(time, worker) for time in (0.0, 2.0, 4.0) for worker in (1, 2)]


def test_work_that_was_cancelled_is_shown_as_dropped(tmp_path):
    """The first of two counts, and the other drops what it does. Worker 2 is slow at first, then fast."""
    timing = ("timing=listed", "timing.compute.seconds=[[1.0,1.0,1.0],[5.0,0.5,5.0]]")
    tracks, _ = virtual(tmp_path, *timing, "topology=k_sync", "topology.count=1", "budget.updates=2")
    assert (results.updates(tmp_path).event == "cancel").sum() >= 1
    assert tracks[1, COMPUTING] == [("compute", 0.0, 1.0)]
    assert tracks[2, COMPUTING] == [("dropped", 0.0, 1.0), ("compute", 1.0, 1.5)]


@pytest.mark.parametrize("topology", ["async", "sync", "ssp", "backup_interrupted", "k_sync"])
def test_the_file_of_a_virtual_run_is_as_the_format_wants_it(tmp_path, topology):
    timing = ("timing=exponential", "timing.uplink.latency=0.1", "timing.downlink.bandwidth=1000")
    run(tmp_path, "engine=virtual", f"topology={topology}", "workers=4", "budget.updates=30", *timing)
    file.write(tmp_path)
    check_versions(tmp_path, opened(tmp_path))


def check_versions(folder, events: list[dict]) -> None:
    """An arrow leads from the slice that gave a version to the work on it, which took as long as it is stale."""
    slices = {(e["pid"], e["tid"], e["ts"]): e["args"] for e in events if e["ph"] == "X" and e["name"] != "data"}
    work = [e for e in events if e["ph"] == "X" and e["name"] == "compute"]
    pushes = results.updates(folder).query("event == 'push'")
    assert len(work) == len(pushes)
    before = results.updates(folder).version.shift(fill_value=0)[pushes.index] - pushes.staleness
    expected = dict(zip(zip(pushes.worker, pushes["round"], strict=True), before, strict=True))
    assert {(e["pid"] // 10 - 1, e["args"]["round"]): e["args"]["version"] for e in work} == expected
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    for start in (e for e in events if e["ph"] == "s" and e["name"] == "version"):
        end = ends[start["id"]]
        if (place := (end["pid"], end["tid"], end["ts"])) in slices:
            assert slices[place]["version"] <= max(e["args"]["version"] for e in at(events, start))


def at(events: list[dict], start: dict) -> list[dict]:
    """The server's slices at that moment."""
    return [e for e in events if e["ph"] == "X" and e["pid"] == start["pid"] and e["ts"] <= start["ts"]]


# Real time


def test_no_round_of_a_worker_begins_before_the_one_before_has_ended(real):
    for _, rows in results.metrics(real).groupby("worker"):
        assert (rows.time_s.diff().dropna() >= (rows.compute_s + rows.wait_s)[1:] - 1e-9).all()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run in threads, whose workers have written their tables."""
    return run(tmp_path_factory.mktemp("real") / "run", *REAL)


def test_a_real_round_is_data_compute_push_wait_and_pull(real):
    file.write(real)
    events = opened(real)
    check_versions(real, events)
    rows = results.metrics(real)
    for worker, own in rows.groupby("worker"):
        spent = defaultdict(float)
        for e in events:
            if e["ph"] == "X" and e["pid"] == 10 * (worker + 1):
                spent[e["name"]] += e["dur"] / 1e6
        assert set(spent) == {"data", "compute", "push", "wait", "pull"}
        assert spent["compute"] == pytest.approx(own.compute_s.sum(), abs=1e-5)
        assert spent["data"] == pytest.approx(own.data_s.sum(), abs=1e-5)
        exchanged = spent["push"] + spent["wait"] + spent["pull"]
        assert exchanged == pytest.approx((own.wait_s - own.data_s).sum(), abs=1e-5)
    served = [e for e in events if e["ph"] == "X" and e["name"] == "apply"]
    assert sum(e["dur"] for e in served) / 1e6 == pytest.approx(taken(real), abs=1e-5)


def taken(folder) -> float:
    table = results.updates(folder)
    return table.apply_s[table.applied == 1].sum()


def copied(source, target, worker: int = 0, late: float = 0.0, torn: bool = False):
    """The run's tables, with the clock of a worker so many seconds late, or with a torn last row."""
    for path in [*source.glob("stats/*/*.csv"), source / "parameters.json"]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text()[: -10 if torn and path.suffix == ".csv" else None])
    path = target / f"stats/worker{worker}/training_metrics.csv"
    if worker:
        rows = list(csv.DictReader(path.open(newline="")))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row | {"time_s": float(row["time_s"]) - late} for row in rows)
    return target


def test_a_workers_clock_that_is_late_is_put_right_as_far_as_cause_and_effect_tell(real, tmp_path):
    record, before = Record(copied(real, tmp_path, worker=2, late=0.5)), Record(real)
    rounds = [(job, before.round(job)) for job in before.jobs if job.row.worker == 2]
    shortest = min(row.wait_s - row.data_s for _, row in rounds)
    assert record.shifts[2] == pytest.approx(0.5, abs=shortest) and record.shifts[1] == before.shifts[1]
    slices, _ = timeline(record)
    taken = {(each.facts["worker"], each.facts["round"]): each for each in slices if each.name == "apply"}
    for each in (each for each in slices if each.name == "push"):
        if apply := taken.get((each.node, each.facts["round"])):
            assert each.begin <= apply.begin + 1e-9


def test_a_run_that_was_killed_has_a_timeline_to_its_last_row(real, tmp_path):
    folder = copied(real, tmp_path, torn=True)
    file.write(folder)
    events = opened(folder)
    whole, torn = (len(Record(each).events) for each in (real, folder))
    assert torn == whole - 1 == sum(e["ph"] == "X" and e["pid"] == 10 for e in events)


def test_only_the_time_that_is_asked_for(real, tmp_path):
    times = results.updates(real).time_s
    start, stop = times.quantile(0.3), times.quantile(0.7)
    path = file.write(real, tmp_path / "trace.json", start, stop)
    assert path == tmp_path / "trace.json"
    timed = [e for e in opened(tmp_path) if e["ph"] == "X"]
    assert timed and all(e["ts"] <= stop * 1e6 and e["ts"] + e["dur"] >= start * 1e6 - 1e-3 for e in timed)


def test_a_folder_without_a_record_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run there that has a"):
        file.write(tmp_path)
    with pytest.raises(ValueError, match="0 run folders: give one"):
        command.Options(())


def test_more_than_viewers_can_show_is_refused(real, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "MOST", 10)
    with pytest.raises(ValueError, match="give start= and stop= in seconds"):
        file.write(real, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
