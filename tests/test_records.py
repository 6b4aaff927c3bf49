"""The tables of a run folder: rows that read back exactly, and the observers that write them."""

import csv
import json
import math

import pytest

from asgd import records, results
from asgd.evaluations import Evaluations
from asgd.messages import Event
from asgd.observers import BufferedLog, Every, UpdateLog
from asgd.records import UPDATES, Table, keep_rows, write_json
from asgd.summary import summarise
from asgd.task import Evaluation
from tests.scripted import Script, a_job, a_server, an_update, with_formula


def rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def pushed(**fields) -> Event:
    given = {"round": 0, "version": 1, "staleness": 0, "applied": 1, "loss": 1.0, "accuracy": None, "samples": 4}
    return Event(1.5, "push", 1, **(given | fields))


# Tables


def test_floats_read_back_exactly_and_none_is_empty(tmp_path):
    values = [0.1, 1 / 3, 1e-300, math.pi * 1e10, 5e-324]
    table = Table(tmp_path / "deep" / "t.csv", ["a", "b"])
    for value in values:
        table.row(value, None)
    assert [float(row["a"]) for row in rows(tmp_path / "deep" / "t.csv")] == values
    assert {row["b"] for row in rows(tmp_path / "deep" / "t.csv")} == {""}
    table.close()


def test_each_row_is_there_before_the_table_is_closed(tmp_path):
    table = Table(tmp_path / "t.csv", ["a"])
    assert (tmp_path / "t.csv").read_text() == "a\n"
    table.row(1)
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"
    table.close()


def test_an_existing_table_is_continued(tmp_path):
    for value in (1, 2):
        table = Table(tmp_path / "t.csv", ["a"])
        table.row(value)
        table.close()
    assert (tmp_path / "t.csv").read_text() == "a\n1\n2\n"


def test_rows_are_kept_by_number_and_content(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n0,x\n1,y\n2,x\n3,x\n")
    keep_rows(tmp_path / "t.csv", lambda number, row: number < 3 and row["b"] == "x")
    assert (tmp_path / "t.csv").read_text() == "a,b\n0,x\n2,x\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("torn", ["2,", "2", "2,12"], ids=["no value", "no comma", "half a value"])
def test_a_torn_last_line_is_not_kept(tmp_path, torn):
    (tmp_path / "t.csv").write_text(f"a,b\n0,123\n1,123\n{torn}")
    keep_rows(tmp_path / "t.csv", lambda number, row: True)
    assert (tmp_path / "t.csv").read_text() == "a,b\n0,123\n1,123\n"


def test_a_table_that_is_not_there_stays_away(tmp_path):
    keep_rows(tmp_path / "t.csv", lambda number, row: True)
    assert not list(tmp_path.iterdir())


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1}), write_json(path, {"a": 0.1, "path": tmp_path})
    assert json.loads(path.read_text()) == {"a": 0.1, "path": str(tmp_path)}
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


def test_who_reads_while_json_is_written_reads_the_old_one_whole(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with open(tmp_path / "x.json") as reader:
        write_json(tmp_path / "x.json", {"b": 22})
        assert json.load(reader) == {"a": 1}


class Stubborn:
    def __str__(self):
        raise RuntimeError("cannot be written")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(RuntimeError):
        write_json(tmp_path / "x.json", {"a": Stubborn()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_the_columns_are_those_that_readers_rely_on():
    assert [*Event._fields, "apply_s"] == UPDATES
    assert records.EVALUATION == ["time_s", "version", "updates", "samples", "loss", "accuracy", "top_k_accuracy"]
    metrics = ["time_s", "epoch", "batch", "loss", "accuracy", "version", "compute_s", "wait_s", "samples", "data_s"]
    system = ["time_s", "cpu_percent", "memory_percent", "memory_mb", "net_sent_mb", "net_recv_mb"]
    assert (metrics, system) == (records.METRICS, records.SYSTEM)


# Observers


def test_the_log_of_updates_is_the_order_of_arrival(tmp_path):
    server, log = a_server(2), UpdateLog(tmp_path)
    script = Script(server, join=False)
    server.observers.append(log)
    server.join(2, 20, 0.1), server.join(1, 10, 0.25)
    server.push(an_update(2), 1 / 3), server.push(an_update(1), 0.5), server.push(an_update(1), 0.6)
    server.leave(2, 0.75)
    table = rows(tmp_path / "updates.csv")
    assert [(float(row["time_s"]), row["event"], int(row["worker"])) for row in table] == [
        (0.1, "join", 2),
        (0.25, "join", 1),
        (1 / 3, "push", 2),
        (0.5, "push", 1),
        (0.75, "leave", 2),
    ]
    assert log.rows == len(table) == len(script.events)
    assert [row["staleness"] for row in table] == ["", "", "0", "1", "1"]
    assert [row["version"] for row in table] == ["0", "0", "1", "2", "2"]


def test_a_continued_log_counts_the_rows_of_before(tmp_path):
    log = UpdateLog(tmp_path, rows=7)
    log.event(pushed())
    assert log.rows == 8


NUMBERS = [0.0, 0.1 + 0.2, 1e-5, 1e16, 1 / 3, 12345678.9, math.inf, -math.inf, math.nan, None]


def test_rows_that_are_written_together_are_those_that_are_written_one_by_one(tmp_path):
    events = [pushed(loss=number, accuracy=number) for number in NUMBERS]
    events += [Event(0.5, "join", 1, 0), Event(1e-7, "cancel", None, None, 3, 12), Event(2.0, "leave", 10**6)]
    singly, together = UpdateLog(tmp_path / "singly"), BufferedLog(tmp_path / "together")
    for event in events:
        singly.event(event)
        together.event(event)
    assert rows(tmp_path / "together/updates.csv") == []
    together.flush()
    assert together.rows == singly.rows == len(events)
    written = [(tmp_path / each / "updates.csv").read_bytes() for each in ("singly", "together")]
    assert written[0] == written[1] and written[0].count(b"\n") == len(events) + 1


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (7, [])])
def test_every_acts_at_the_versions_it_divides(every, expected):
    seen = []
    script = with_formula(a_job("workers=1"), lambda rank, round, params: params)
    script.server.observers.append(Every(every, lambda server, now: seen.append(server.version)))
    script.arrive(*[1] * 5)
    assert seen == expected


def test_how_long_the_server_took_is_told_by_its_clock(tmp_path):
    times = iter([1.75, 2.5])
    log = UpdateLog(tmp_path, clock=lambda: next(times))
    log.event(pushed()), log.event(pushed())
    assert [float(row["apply_s"]) for row in rows(tmp_path / "updates.csv")] == [0.25, 1.0]
    assert log.progress.apply.value == 0.625


# Evaluations


def judge(model):
    if model.version == 2:
        raise ValueError("this one cannot be judged")
    return Evaluation(float(model.version), None, 1)


def test_each_version_is_evaluated_once_in_order_and_a_failure_is_no_end(tmp_path, caplog):
    script = with_formula(a_job("workers=1"), lambda rank, round, params: params).arrive(*[1] * 4)
    evaluations = Evaluations(tmp_path, judge)
    for model in [*script.models, script.models[-1]]:
        evaluations.submit(model, samples=10 * model.version, now=0.5 * model.version)
    evaluations.close()
    table = [(row["version"], row["samples"], row["loss"], row["time_s"]) for row in rows(tmp_path / "evaluation.csv")]
    assert table == [("1", "10", "1.0", "0.5"), ("3", "30", "3.0", "1.5"), ("4", "40", "4.0", "2.0")]
    assert "the evaluation of version 2 failed: this one cannot be judged" in caplog.text


# The summary


def judge_all(model):
    return Evaluation(float(model.version), 0.5, 1, 1 / (1 + model.version))


def test_the_summary_follows_from_the_tables_and_the_server(tmp_path):
    folder = tmp_path / "stats" / "ps"
    script = with_formula(a_job("workers=3"), lambda rank, round, params: 0.1 * params)
    log, evaluations = UpdateLog(folder), Evaluations(folder, judge_all)
    script.server.observers.append(log)
    script.arrive(1, 2, 3, 3, 1)
    for model in script.models:
        evaluations.submit(model, 1, 1.0)
    evaluations.close(), script.server.end("interrupted")
    summary = summarise(
        tmp_path, script.server, seconds=2.0, skipped=3, failed=1, target={"loss": None, "accuracy": None}
    )
    staleness = script.applied_staleness()
    assert summary == results.summary(tmp_path) and list(summary) == records.SUMMARY
    expected = {"ended": "interrupted", "updates": 5, "samples": 5, "updates_per_s": 2.5, "applied": 5, "late": 0}
    expected |= {"staleness_mean": sum(staleness) / 5, "staleness_max": max(staleness), "skipped_samples": 3}
    expected |= {"final_loss": 5.0, "best_loss": 1.0, "best_accuracy": 0.5, "failed_workers": 1}
    expected |= {"final_top_k_accuracy": 1 / 6, "best_top_k_accuracy": 1 / 2}
    assert {name: summary[name] for name in expected} == expected
