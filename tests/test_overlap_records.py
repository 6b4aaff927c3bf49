"""What is read from the tables of runs with ``worker.overlap``: a job's model, and when its worker did what."""

from collections import defaultdict
from itertools import pairwise

import pandas as pd
import pytest

from asgd import results
from asgd.compare.collect import occupation
from asgd.trace import file
from asgd.trace.record import Record
from asgd.trace.timeline import COMPUTING, EXCHANGING, SERVER, timeline
from tests.runs import pushes, run
from tests.test_timeline import check_versions, opened

OVERLAP = "worker.overlap=true"
METHODS = ("async", "ssp", "sync", "fedbuff")
COLUMNS = "time_s event worker round version staleness waiting".split()


def test_an_update_is_computed_on_the_answer_to_the_one_before_the_last():
    """Worker 1 leaves and comes again; its second life begins on the model of its join, twice."""
    rows = [
        (0.0, "join", 1, 0, 0, None, 1),
        (0.5, "join", 2, 0, 0, None, 0),
        (1.0, "push", 1, 0, 1, 0, 0),
        (2.0, "push", 1, 1, 2, 1, 0),
        (2.5, "push", 2, 0, 3, 2, 0),
        (3.0, "push", 1, 2, 4, 2, 0),  # on version 1
        (3.5, "leave", 1, 2, 4, 4, 0),
        (4.0, "join", 1, 3, 4, None, 0),
        (5.0, "push", 1, 3, 5, 0, 0),
        (6.0, "push", 1, 4, 6, 1, 0),
        (7.0, "push", 1, 5, 7, 1, 0),
    ]
    table = results.jobs(pd.DataFrame(rows, columns=COLUMNS), overlap=True)
    assert table.version.tolist() == [0, 0, 0, 1, 4, 4, 5]
    assert table.source_at.tolist() == [0, 0, 1, 2, 7, 7, 8]
    assert table.given_at.tolist() == [1, 1, 1, 2, 7, 7, 8]
    assert table.asked.tolist() == [0.0, 1.0, 0.5, 2.0, 4.0, 5.0, 6.0]
    assert table.began.tolist() == [0.5, 1.0, 0.5, 2.0, 4.0, 5.0, 6.0]
    assert table.ended.tolist() == [1.0, 2.0, 2.5, 3.0, 5.0, 6.0, 7.0] and not table.dropped.any()


def test_who_waits_is_given_its_model_with_the_version_that_all_wait_for():
    """In step: worker 1 pushes twice as soon as it can, and begins its third job on the version of 2.0 s, at 2.5 s."""
    rows = [
        (0.0, "join", 1, 0, 0, None, 1),
        (0.0, "join", 2, 0, 0, None, 0),
        (1.0, "push", 1, 0, 0, 0, 1),
        (2.0, "push", 2, 0, 1, 0, 0),
        (2.5, "push", 1, 1, 1, 1, 1),
        (4.0, "push", 2, 1, 2, 1, 0),
        (4.5, "push", 1, 2, 2, 1, 1),
    ]
    table = results.jobs(pd.DataFrame(rows, columns=COLUMNS), overlap=True)
    last = table.iloc[-1]
    assert (last.version, last.source_at, last.given_at, last.asked, last.began) == (1, 2, 3, 2.5, 2.5)


@pytest.fixture(
    scope="module", params=[(engine, each) for engine in ("virtual", "threads") for each in METHODS], ids=str
)
def made(request, tmp_path_factory):
    engine, topology = request.param
    options = (f"engine={engine}", f"topology={topology}", "workers=3", OVERLAP, "budget.updates=25")
    options += ("topology.steps=3",) * (topology == "fedbuff")
    return run(tmp_path_factory.mktemp("made") / "run", *options)


def test_jobs_of_a_run_have_the_models_that_their_workers_were_given(made):
    events = results.updates(made)
    table = results.jobs(events, overlap=results.overlaps(made))
    source, given = events.iloc[table.source_at].reset_index(), events.iloc[table.given_at].reset_index()
    assert (source.worker == table.worker).all() and (source.event == "join").eq(table["round"] < 2).all()
    later = table["round"] >= 2
    assert (source["round"] == table["round"] - 2)[later].all()
    assert (given.version == table.version).all() and (given.index >= source.index).all()
    assert (table.given_at <= table.began_at).all() and (table.began_at < table.ended_at).all()
    if len(rows := results.metrics(made)):
        own = rows.assign(round=rows.groupby("worker").cumcount())[["worker", "round", "version"]].astype(int)
        assert len(table.astype(int).merge(own, on=["worker", "round", "version"])) == len(table)


def test_no_time_of_a_worker_is_counted_twice(made):
    events = results.updates(made)
    table = results.jobs(events, overlap=True).groupby("worker")
    work = occupation(results.metrics(made)[:0], events, overlap=True).set_index("worker")
    assert (work.computing + work.waiting).tolist() == pytest.approx((table.ended.max() - table.asked.min()).tolist())


def test_the_timeline_is_as_the_format_wants_it(made):
    file.write(made)
    events = opened(made)
    check_versions(made, events)
    work = [each for each in events if each["ph"] == "X" and each["name"] == "compute"]
    assert len(work) == len(pushes(made))
    if len(rows := results.metrics(made)):
        assert sum(each["dur"] for each in work) / 1e6 == pytest.approx(took(rows, work), abs=1e-5)


def took(rows: pd.DataFrame, work: list[dict]) -> float:
    """The seconds that workers say their jobs took, of those that are on the timeline."""
    seconds = rows.set_index([rows.worker.astype(int), rows.groupby("worker").cumcount()]).compute_s
    return sum(seconds[each["pid"] // 10 - 1, each["args"]["round"]] for each in work)


def test_slices_of_a_track_follow_each_other(made):
    slices, _ = timeline(Record(made))
    tracks = defaultdict(list)
    for each in sorted(slices, key=lambda each: (each.begin, each.end)):
        tracks[each.node, each.track].append(each)
    for own in tracks.values():
        assert all(before.end <= after.begin + 1e-9 for before, after in pairwise(own))


def test_the_timeline_says_when_a_worker_computes_and_when_it_waits(tmp_path):
    """Computing takes 1 s, up 1.5 s, down 0.75 s: a worker sends an update when the one before is answered."""
    ways = ("+timing.uplink=1.5", "+timing.downlink=0.75")
    options = ("engine=virtual", "timing=none", "timing.compute=1.0", *ways, "workers=1", OVERLAP, "budget.updates=4")
    slices, arrows = timeline(Record(run(tmp_path, *options)))
    on = {track: [each[2:5] for each in slices if each[:2] == (1, track)] for track in (COMPUTING, EXCHANGING)}
    compute = [("compute", begin, begin + 1.0) for begin in (0.75, 1.75, 4.0, 6.25)]
    assert [each for each in on[COMPUTING] if each[0] == "compute"] == compute
    assert [each for each in on[COMPUTING] if each[0] == "wait"] == [
        ("wait", 2.75, 4.0),
        ("wait", 5.0, 6.25),
        ("wait", 7.25, 8.5),
    ]
    assert [each for each in on[EXCHANGING] if each[0] == "push"] == [
        ("push", each, each + 1.5) for each in (1.75, 4.0, 6.25, 8.5)
    ]
    pull = [("pull", 0.0, 0.75), ("pull", 3.25, 4.0), ("pull", 5.5, 6.25), ("pull", 7.75, 8.5)]
    assert [each for each in on[EXCHANGING] if each[0] == "pull"] == pull
    served = [each.begin for each in slices if each.node == SERVER]
    gave = [each.source[2] for each in arrows if each.name == "version"]
    assert gave == pytest.approx([served[0], served[0], served[1], served[2]], abs=1e-8)


def test_a_trace_of_an_overlapping_run_gives_its_order_of_arrival(tmp_path):
    options = (OVERLAP, "workers=3", "budget.updates=30")
    real = run(tmp_path / "real", "engine=threads", *options)
    words = ("engine=virtual", "timing=trace", f"timing.compute.folder={real}")
    again = run(tmp_path / "again", *words, *options)
    arrived = [list(zip(pushes(each).worker, pushes(each)["round"], strict=True)) for each in (real, again)]
    assert arrived[0][:30] == arrived[1]
