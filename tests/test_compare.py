"""``python -m asgd.compare``: what it reads, the files it writes, and what it says to mistakes."""

import json
import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from asgd import results, words
from asgd.compare import __main__ as command
from asgd.compare import choices, collect
from asgd.records import EVALUATION, METRICS, UPDATES
from tests.sweeps import a_folder

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("plotly", reason="plotly is not installed")

STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
DRAWN = ("curves", "target", "staleness", "work", "throughput", "heat_map")


@pytest.fixture
def mixed(swept, tmp_path) -> Path:
    """The sweep with a killed, a diverged and a running run among its eight."""
    place = shutil.copytree(swept / "outputs/sweeps/one", tmp_path / "mixed")
    (place / "0/summary.json").unlink()
    for path in [place / "0/parameters.json", *(place / "0/stats").glob("*/*.csv")]:
        os.utime(path, (1e9, 1e9))
    summary = json.loads((place / "3/summary.json").read_text())
    (place / "3/summary.json").write_text(json.dumps(summary | {"ended": "diverged", "final_loss": None}))
    (place / "7/summary.json").unlink()
    (place / "7/parameters.json").touch()
    return place


def compared(*words_given: str) -> None:
    command.main(words.parse(command.Options, list(words_given)))


# What is read


def test_runs_are_sorted_by_the_objective_and_those_that_are_not_over_come_last(mixed):
    found = collect.collect([mixed])
    over = found.runs[:6]
    assert over.final_accuracy.is_monotonic_decreasing and set(over.state) == {"budget", "diverged"}
    assert sorted(found.runs.state[6:]) == ["killed", "running"] and found.runs.final_accuracy[6:].isna().all()
    assert (found.keys, found.group, found.objective) == (
        ["workers", "topology", "seed"],
        ["workers", "topology"],
        "final_accuracy",
    )
    assert found.unit == "virtual seconds"


def test_a_lower_loss_comes_first(mixed):
    losses = collect.collect([mixed], objective="final_loss").runs.final_loss
    assert losses[:5].is_monotonic_increasing and losses[5:].isna().all()


def test_a_killed_runs_counts_are_those_of_its_last_evaluation(mixed):
    found = collect.collect([mixed])
    killed = found.runs[found.runs.state == "killed"].iloc[0]
    last = results.curves(pd.DataFrame({"folder": [killed.folder]})).iloc[-1]
    assert (killed.updates, killed.samples, killed.seconds) == (last.updates, last.samples, last.seconds)


def test_the_default_target_is_95_per_cent_of_the_best(swept):
    found = collect.collect([swept])
    assert found.target == int(95 * found.curves.accuracy.max()) / 100
    assert collect.collect([swept], target=0.3).target == 0.3


def test_staleness_counts_the_applied_updates(swept):
    found = collect.collect([swept])
    for run in found.runs.itertuples():
        pushes = results.updates(run.folder).query("event == 'push' and applied == 1")
        mine = found.staleness[found.staleness.folder == run.folder]
        assert dict(zip(mine.staleness, mine.updates, strict=True)) == pushes.staleness.value_counts().to_dict()


def test_time_of_virtual_workers_is_what_passed_between_their_updates(swept):
    found = collect.collect([swept])
    work = found.work.groupby("folder")[["computing", "data", "waiting"]].sum()
    for run in found.runs.itertuples():
        pushes = results.updates(run.folder).query("event == 'push'")
        assert work.loc[run.folder].sum() == pytest.approx(pushes.groupby("worker").time_s.max().sum())
        assert (work.waiting[run.folder] > 0) == (run.topology == "sync" and run.workers == 2)


@pytest.mark.parametrize("more", [(), ("data_s",)])
def test_time_of_real_workers_is_in_their_own_tables(more):
    columns = list(dict.fromkeys([*METRICS, *more, "worker"]))
    rows = pd.DataFrame(0.0, range(4), columns).assign(worker=[1, 1, 2, 2], compute_s=[1.0, 2, 3, 4], wait_s=0.5)
    rows = rows.assign(data_s=0.125) if "data_s" in columns else rows
    data = 0.25 if "data_s" in columns else 0.0
    found = collect.occupation(rows, pd.DataFrame(columns=UPDATES))
    assert found.worker.tolist() == [1, 2] and found.computing.tolist() == [3.0, 7.0]
    assert found.data.tolist() == [data] * 2 and found.waiting.tolist() == [1.0 - data] * 2


def test_many_settings_are_grouped_by_the_first_option_and_copies_of_it_count_once():
    runs = pd.DataFrame([{"lr": i, "decay": -i, "width": j, "seed": 0} for i in range(4) for j in range(4)])
    assert choices.settings(runs, ["lr", "decay", "width", "seed"]) == ["lr", "width"]
    assert choices.group(runs, ["lr", "decay", "width"], None) == ["lr"]
    assert choices.group(runs[:12], ["lr", "decay", "width"], None) == ["lr", "width"]
    assert choices.group(runs, ["seed"], None) == [] and choices.group(runs, ["lr"], "runs") is None


def test_virtual_and_real_seconds_are_told_apart():
    engines = [f"asgd.engines.{name}" for name in ("virtual.VirtualEngine", "rpc_engine.RpcEngine")]
    units = [choices.unit(pd.DataFrame({"engine._target_": some})) for some in (engines[:1], engines[1:], engines)]
    assert units == ["virtual seconds", "seconds", choices.MIXED]


# What is written


def test_a_page_a_table_and_figures_are_written_beside_the_runs(mixed, capsys):
    compared(str(mixed), "x=seconds")
    out = mixed / "comparison"
    assert str(out / "comparison.html") in capsys.readouterr().out
    table = pd.read_csv(out / "runs.csv")
    assert list(table)[:6] == ["workers", "topology", "seed", "final_accuracy", "state", "folder"] and len(table) == 8
    files = {path.name for path in (out / "figures").iterdir()}
    assert files == {f"{name}.{suffix}" for name in DRAWN for suffix in STARTS}
    for path in (out / "figures").iterdir():
        assert path.read_bytes().startswith(STARTS[path.suffix[1:]])
    assert len(results.load(mixed)) == 8  # what was written is no run


def test_figures_for_which_there_is_nothing_any_more_are_removed(tmp_path):
    header, joined = ",".join(UPDATES), "0.0,join,1,0,0,,,,,,0,"
    a_folder(tmp_path / "runs/0", updates=f"{header}\n{joined}\n", evaluation=",".join(EVALUATION) + "\n")
    (tmp_path / "runs/comparison/figures").mkdir(parents=True)
    (tmp_path / "runs/comparison/figures/curves.png").touch()
    compared(str(tmp_path / "runs"))
    assert list((tmp_path / "runs/comparison/figures").iterdir()) == []
    assert (tmp_path / "runs/comparison/comparison.html").exists()


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr("asgd.compare.drawing.figures", lambda *_: None)


def test_several_folders_and_a_place_of_ones_own(swept, tmp_path, monkeypatch, without_figures):
    one = swept / "outputs/sweeps/one"
    compared(str(one / "0"), f"{one}/[1-3]", "group=seed", f"out={tmp_path / 'mine'}")
    assert len(pd.read_csv(tmp_path / "mine/runs.csv")) == 4
    monkeypatch.chdir(tmp_path)
    assert command.place(words.parse(command.Options, [str(one / "0"), str(one / "1")])).parent == Path(
        "outputs/comparisons"
    )


def test_a_folder_whose_name_looks_like_an_option_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    given = words.parse(command.Options, ["lr=0.1", "runs/lr=0.2", "x=samples"])
    assert given.folders == ("lr=0.1", "runs/lr=0.2") and given.x == "samples"


def test_nothing_in_the_page_is_loaded_from_elsewhere_and_no_name_breaks_it(swept, tmp_path, without_figures):
    odd = tmp_path / "<script>alert(1)<" / "script>&"
    shutil.copytree(swept / "outputs/sweeps/one/0", odd)
    compared(str(tmp_path), f"out={tmp_path / 'out'}")
    page = Page()
    page.feed((tmp_path / "out/comparison.html").read_text())
    assert [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe")] == ["link", *["script"] * 3]
    loaded = [value for _, given in page.tags for name, value in given if name in ("src", "href", "srcset")]
    assert loaded == ["data:,"] and "url(" not in page.texts["style"][0] and "@import" not in page.texts["style"][0]
    data = json.loads(page.texts["script"][0])
    assert data["runs"][0]["folder"] == str(odd)


class Page(HTMLParser):
    """The tags of a page with their attributes, and the texts of its styles and scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], {"style": [], "script": []}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_data(self, data):
        if (tag := self.tags[-1][0] if self.tags else None) in self.texts and data.strip():
            self.texts[tag].append(data)


# Mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"no folder; python -m asgd\.compare FOLDER"),
        (["{}/none"], "none: no such folder"),
        (["{}/empty"], r"empty: no run there; a run's folder has a parameters\.json"),
        (["{}/runs", "group=worker"], r"group=worker: no such name \(did you mean workers\?\)"),
        (["{}/runs", "group=workers,folder"], "group=folder: no such name"),
        (["{}/runs", "x=second"], r"x=second: one of seconds, samples, updates \(did you mean seconds\?\)"),
        (["{}/runs", "target=90"], "target=90.0: an accuracy, more than 0 and at most 1"),
        (["{}/runs", "target=high"], "target=high: must be a number or null"),
        (["{}/runs", "objective=final_acuracy"], r"objective=final_acuracy: .* \(did you mean final_accuracy\?\)"),
        (["{}/runs", "groups=seed"], r"no option groups \(did you mean group\?\)"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, given, message):
    a_folder(tmp_path / "runs/0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        compared(*(word.format(tmp_path) for word in given))
    assert not list(tmp_path.rglob("comparison*"))


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    a_folder(tmp_path / "runs/0")
    for name in [each for each in sys.modules if each.startswith(("asgd.compare.drawing", "asgd.compare.page"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("asgd.compare.drawing", raising=False)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ValueError, match=r"plotly.* is missing: pip install 'asgd\[plot\]'"):
        compared(str(tmp_path / "runs"))
