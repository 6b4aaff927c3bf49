"""Replays that must not agree: the first event that differs is named, and what cannot be replayed is refused."""

import csv
import json
import re
import shutil

import pytest

from asgd import command_line, results
from asgd.engines.comparison import Departed
from tests.runs import replayed, run
from tests.scripted import DIGITS, a_job

LR = ("topology", "optimizer", "lr")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of three workers, one of them slow, with 3 joins and then 40 pushes."""
    options = ("engine=virtual", "timing=deterministic", "timing.compute.seconds=[1,1.5,7]", "workers=3")
    folder = tmp_path_factory.mktemp("recorded") / "run"
    return run(folder, *options, "budget.updates=40", "checkpoint.every=40", problem=DIGITS)


def falsified(source, folder, change) -> str:
    """What a replay says of a copy of the run whose rows of ``updates.csv`` (dicts) were changed."""
    shutil.copytree(source, folder)
    path = folder / "stats/ps/updates.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader(), writer.writerows(rows)
    with pytest.raises(Departed) as caught:
        replayed(folder, folder.parent / "replay")
    return str(caught.value)


def swap(rows, at: int) -> None:
    """Two pushes of different workers change places; the clock and the versions stay."""
    assert rows[at]["worker"] != rows[at + 1]["worker"]
    for name in ("worker", "round", "loss", "accuracy"):
        rows[at][name], rows[at + 1][name] = rows[at + 1][name], rows[at][name]


CHANGES = {
    "worker": (lambda rows: rows[20].update(worker="3"), 20),
    "unknown worker": (lambda rows: rows[20].update(worker="4"), 20),
    "round": (lambda rows: rows[20].update(round="99"), 20),
    "staleness": (lambda rows: rows[20].update(staleness="9"), 20),
    "applied": (lambda rows: rows[20].update(applied="0"), 20),
    "late": (lambda rows: rows[20].update(applied="0", loss="", accuracy=""), 20),
    "samples": (lambda rows: rows[20].update(samples="7"), 20),
    "swapped": (lambda rows: swap(rows, 9), 9),
    "lost": (lambda rows: rows.pop(20), 20),
    "doubled": (lambda rows: rows.insert(20, dict(rows[19])), 20),
    "left": (lambda rows: rows.insert(20, rows[19] | {"event": "leave", "staleness": "5", "applied": ""}), 20),
    "cancelled": (lambda rows: rows.insert(20, rows[19] | {"event": "cancel", "worker": "", "staleness": "5"}), 20),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_first_departing_event_is_named(tmp_path, recorded, name):
    change, at = CHANGES[name]
    text = falsified(recorded, tmp_path / "copy", change)
    assert f"the replay departs at event {at} of {tmp_path / 'copy'}:" in text
    assert "here: " in text


@pytest.mark.parametrize(("path", "value"), [(LR, 0.2), (("seed",), 1), (("dataset", "seed"), 1)])
def test_another_configuration_departs_at_the_next_checkpoint(tmp_path, recorded, path, value):
    with pytest.raises(Departed, match=r"event 42 of .*\n  parameters of version 40"):
        replayed(configured(recorded, tmp_path / "copy", path, value), tmp_path / "replay")


def test_a_difference_in_the_last_digits_is_measured_and_its_first_event_named(tmp_path, recorded, caplog):
    caplog.set_level("INFO")
    lr = results.parameters(recorded)["config"]["optimizer"]["lr"] * (1 + 1e-6)
    found = replayed(configured(recorded, tmp_path / "copy", LR, lr), tmp_path / "replay")
    assert found["equal"] is False and 0 < found["largest_difference"] < 1e-5 and 3 < found["first_rounding"] < 9
    assert re.search(rf"differ by at most .* losses differ from event {found['first_rounding']} on", caplog.text)


def configured(source, folder, path: tuple[str, ...], value):
    """A copy of the run whose configuration says something else."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "parameters.json").read_text())
    place = content["config"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (folder / "parameters.json").write_text(json.dumps(content))
    return folder


# On the command line


def adopted(source, *words: str) -> dict:
    given = ("engine=replay", f"engine.source={source}", *words)
    return command_line.adopted(a_job(*given, problem=(), limits=()).config, list(given))


def test_a_replay_takes_the_options_of_the_run_and_its_own_engine_and_device(recorded):
    config, theirs = adopted(recorded, "engine.at_once=3"), results.parameters(recorded)["config"]
    assert config["engine"]["source"] == str(recorded) and config["engine"]["at_once"] == 3
    own = ("engine", "threads", "role", "rank", "resume")
    assert {k: v for k, v in config.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    assert config["threads"] == json.loads((recorded / "stats/ps/parameters.json").read_text())["threads"]


@pytest.mark.parametrize("word", ["workers=7", "optimizer.lr=0.5", "topology=sync", "+model.width=3", "seed=1"])
def test_an_option_that_contradicts_the_run_is_refused(recorded, word):
    with pytest.raises(ValueError, match=rf"takes its options from .*; leave out {re.escape(word)}"):
        command_line.adopted({"engine": {"source": str(recorded)}}, [f"engine.source={recorded}", word])


def test_without_a_source_that_is_said():
    with pytest.raises(Exception, match=r"engine\.source is not set: give the folder of the run to repeat"):
        a_job("engine=replay")


@pytest.mark.parametrize("missing", ["parameters.json", "stats/ps/updates.csv", "stats/ps/parameters.json"])
def test_a_folder_without_a_whole_record_is_refused(tmp_path, recorded, missing):
    shutil.copytree(recorded, tmp_path / "copy")
    (tmp_path / "copy" / missing).unlink()
    with pytest.raises(ValueError, match=rf"engine\.source={tmp_path}/copy: no recorded run there"):
        adopted(tmp_path / "copy")


def test_the_command_line_says_what_it_cannot_replay_and_where_it_departs(start, tmp_path, recorded):
    nothing = start("engine=replay", f"engine.source={tmp_path}", name="nothing")
    other = start("engine=replay", f"engine.source={configured(recorded, tmp_path / 'copy', LR, 0.2)}", name="other")
    assert "no recorded run there" in nothing.wait() and not nothing.folder.exists()
    assert "the replay departs at event 42 of" in other.wait()
    assert (nothing.code, other.code) == (2, 1) and "Traceback" not in nothing.output + other.output
