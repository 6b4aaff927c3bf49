"""Reading run folders: whole ones, those of running and killed runs, many at once; and the page that shows how."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.stats import t as student

from asgd import results
from asgd.records import EVALUATION, METRICS, SUMMARY, UPDATES
from asgd.results import files
from tests.scripted import CONF
from tests.sweeps import GRID, a_folder

DOCS = Path(__file__).parents[1] / "docs"
HEADER = ",".join(UPDATES)
JOINED = "0.5,join,1,0,0,,,,,,0,"
PUSHED = "1.25,push,1,0,1,0,1,2.5,0.25,8,0,100"


# The page


def test_the_examples_of_the_page_give_what_it_shows(swept, monkeypatch):
    monkeypatch.chdir(swept)
    pd.set_option("display.width", 120)
    failed, tried = doctest.testfile(str(DOCS / "results.md"), module_relative=False)
    assert tried > 15 and not failed


def test_reading_imports_no_training_code():
    code = "import sys; from asgd import results; print([m for m in ('torch', 'hydra', 'scipy') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "[]"


# Runs


def test_one_row_for_each_run_of_a_sweep(swept):
    table = results.load(swept)
    assert [(run.workers, run.topology, run.seed) for run in table.itertuples()] == [
        (workers, topology, seed) for workers in (1, 2) for topology in ("async", "sync") for seed in (1, 2)
    ]
    assert list(table.columns[:2]) == ["folder", "state"] and set(table.state) == {"budget"}
    assert table.final_accuracy.tolist() == [results.summary(folder)["final_accuracy"] for folder in table.folder]


def test_runs_are_found_by_folder_pattern_and_list_each_once_and_in_order(tmp_path):
    for number in (10, 2, 1):
        a_folder(tmp_path / "a" / str(number))
    a_folder(tmp_path / "b/7")
    assert [Path(each).name for each in results.load(tmp_path / "a").folder] == ["1", "2", "10"]
    assert [Path(each).name for each in results.load(f"{tmp_path}/*/[27]").folder] == ["2", "7"]
    assert len(results.load([tmp_path / "b", tmp_path], tmp_path / "a/1")) == 4
    assert len(results.load(tmp_path / "b/7")) == 1


def test_a_place_that_is_not_there_is_an_error_and_one_without_runs_an_empty_table(tmp_path):
    for place in (tmp_path / "none", f"{tmp_path}/*/x"):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            results.load(place)
    assert len(table := results.load(tmp_path)) == 0 and {"folder", "state", *SUMMARY} <= set(table)


def test_an_option_with_the_name_of_a_figure_does_not_hide_it(tmp_path):
    table = results.load(a_folder(tmp_path / "run", {"nonfinite": "skip", "optimizer": {"lr": 0.5}}))
    assert table["config.nonfinite"][0] == "skip" and table.nonfinite[0] is None and table["optimizer.lr"][0] == 0.5


def test_the_chosen_files_are_read_from_hydras_own_record(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = compose("config", ["topology=ssp", "engine=virtual"], return_hydra_config=True)
    run = a_folder(tmp_path / "run", overrides=["topology=ssp", "engine=virtual"])
    (run / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.masked_copy(made, "hydra"), run / ".hydra/hydra.yaml")
    table = results.load(run)
    chosen = {name: table[name][0] for name in ("topology", "engine", "timing", "model", "dataset", "experiment")}
    assert chosen == {
        **{"topology": "ssp", "engine": "virtual", "timing": "cvb_homogeneous"},
        **{"model": "cnn", "dataset": "digits", "experiment": None},
    }


def test_progress_can_be_followed(tmp_path):
    for number in range(3):
        a_folder(tmp_path / str(number))
    seen = []
    results.load(tmp_path, track=lambda found: (seen.append(each.name) or each for each in found))
    assert seen == ["0", "1", "2"]


# What is left of runs that were killed


def test_how_a_run_ended_or_that_it_has_not(tmp_path):
    a_folder(tmp_path / "0", ended="diverged")
    a_folder(tmp_path / "1", ended=None, updates=f"{HEADER}\n")
    for path in [killed := a_folder(tmp_path / "2", ended=None), *killed.rglob("*")]:
        os.utime(path, (1e9, 1e9))
    (tmp_path / "3").mkdir()
    (tmp_path / "3/parameters.json").touch()  # killed before it was written
    table = results.load(tmp_path)
    assert table.state.tolist() == ["diverged", "running", "killed", "running"]
    assert table.updates.tolist()[0] == 3 and table.updates[1:].isna().all()


def test_a_torn_last_line_is_left_out(tmp_path):
    run = a_folder(tmp_path / "run", updates=f"{HEADER}\n{JOINED}\n{PUSHED}\n2.5,push,1,1,2,0,1,2.")
    assert results.updates(run).time_s.tolist() == [0.5, 1.25]
    assert results.start(run) == 0.5 == results.start_of(results.updates(run))


@pytest.mark.parametrize("begun", [{}, {"updates": "", "evaluation": ""}, {"updates": "time_s,ev", "evaluation": "ti"}])
def test_tables_that_were_not_begun_are_empty(tmp_path, begun):
    run = a_folder(tmp_path / "run", ended=None, **begun)
    assert len(results.updates(run)) == 0 and list(results.updates(run)) == UPDATES
    assert len(results.evaluation(run)) == 0 and list(results.evaluation(run)) == EVALUATION
    assert list(results.metrics(run)) == [*METRICS, "worker"] and len(results.metrics(run)) == 0
    assert len(results.system_stats(run)) == 0
    assert len(results.jobs(results.updates(run))) == 0 and np.isnan(results.start(run))


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"updates\.csv"):
        results.updates(tmp_path)


def test_tables_of_many_runs_skip_those_that_have_none(tmp_path):
    first = a_folder(tmp_path / "0", updates=f"{HEADER}\n{JOINED}\n{PUSHED}\n")
    a_folder(tmp_path / "1", ended=None)
    table = results.updates(results.load(tmp_path))
    assert table.folder.tolist() == [str(first)] * 2 and list(table) == ["folder", *UPDATES]
    assert list(results.evaluation(results.load(tmp_path))) == ["folder", *EVALUATION]
    assert len(results.curves(results.load(tmp_path))) == 0


# What differs


def differing(folder: Path, *runs: tuple[dict, list[str]]) -> list[str]:
    for number, (config, overrides) in enumerate(runs):
        a_folder(folder / str(number), config, overrides)
    return results.varied(results.load(folder))


def test_what_follows_from_what_was_swept_is_left_out(swept):
    assert results.varied(results.load(swept)) == list(GRID)


def test_typed_options_come_first_and_others_only_where_they_add_something(tmp_path):
    found = differing(
        tmp_path,
        ({"lr": 0.1, "copy": 0.1, "hidden": [1], "same": 1}, ["+lr=0.1"]),
        ({"lr": 0.2, "copy": 0.2, "hidden": [1], "same": 1}, ["lr=0.2"]),
        ({"lr": 0.2, "copy": 0.2, "hidden": [2], "same": 1}, ["lr=0.2"]),
    )
    assert found == ["lr", "hidden"]


def test_an_option_that_only_some_runs_have_counts_where_it_differs_among_them(tmp_path):
    ssp = [({"topology": {"slack": slack}}, ["topology=ssp"]) for slack in (1, 2)]
    assert differing(tmp_path, ({"topology": {"rule": "x"}}, ["topology=async"]), *ssp) == [
        "topology",
        "topology.slack",
    ]


def test_runs_that_do_not_differ(tmp_path):
    assert differing(tmp_path, ({"lr": 1}, ["lr=1"]), ({"lr": 1}, [])) == []


# Curves


def test_the_mean_over_seeds_and_its_interval():
    curves = pd.DataFrame({
        "folder": ["a"] * 3 + ["b"] * 3, "way": "x", "updates": [0, 10, 20, 0, 10, 30], "loss": [4.0, 2, 1, 8, 4, 0],
    })  # fmt: skip
    table = results.mean(curves, ["way"])
    assert table.updates.tolist() == [0, 10, 20] and table.loss.tolist() == [6.0, 3.0, (1 + 2) / 2]
    half = student.ppf(0.975, 1) * np.std([[4, 8], [2, 4], [1, 2]], axis=1, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(table.high - table.loss, half)
    np.testing.assert_allclose(table.loss - table.low, half)
    assert set(table.n) == {2} and len(results.mean(curves[:0], ["way"])) == 0


def test_an_interval_needs_two_values():
    assert results.interval([1.0, 3.0, np.nan]) == (2.0, pytest.approx(student.ppf(0.975, 1)), 2)
    assert results.interval([5.0])[::2] == (5.0, 1) and np.isnan(results.interval([5.0])[1])
    assert np.isnan(results.interval([])[0])


def test_when_a_target_was_reached():
    curves = pd.DataFrame({
        "folder": ["a", "a", "b", "b"], "seconds": [1.0, 2, 1, 2], "samples": [8, 16, 8, 16], "updates": [1, 2, 1, 2],
        "accuracy": [0.5, 0.9, 0.1, 0.4], "loss": [2.0, 1.0, 3.0, 2.0],
    })  # fmt: skip
    table = results.reached(curves, 0.5)
    assert table.loc["a"].tolist() == [1.0, 8, 1] and table.loc["b"].isna().all()
    assert results.reached(curves, 2.0, "loss").updates.tolist() == [1, 2]


def test_seconds_count_from_the_first_model(tmp_path):
    evaluation = f"{','.join(EVALUATION)}\n3.0,1,1,8,2.0,0.5,\n"
    a_folder(tmp_path / "run", updates=f"{HEADER}\n{JOINED}\n{PUSHED}\n", evaluation=evaluation)
    assert results.curves(results.load(tmp_path)).seconds.tolist() == [2.5]


# The copy of large tables


@pytest.fixture
def large(tmp_path, monkeypatch) -> tuple[Path, Path, Path]:
    """A run whose updates count as large: its folder, the table and where its copy would be."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(files, "LARGE", 100)
    run = a_folder(tmp_path / "run", updates=f"{HEADER}\n{JOINED}\n{PUSHED}\n")
    return run, run / "stats/ps/updates.csv", run / "stats/ps/updates.parquet"


def test_the_copy_is_what_is_read_and_equals_the_table(large, monkeypatch):
    run, _, copy = large
    first = results.updates(run)
    assert copy.exists() and {path.name for path in copy.parent.iterdir()} == {"updates.csv", "updates.parquet"}
    monkeypatch.setattr(files, "read", None)
    again = results.updates(run)
    pd.testing.assert_frame_equal(first, again)


def test_the_copy_of_a_table_that_has_changed_is_not_used_but_made_anew(large):
    run, csv, copy = large
    results.updates(run)
    before = copy.read_bytes()
    csv.write_text(csv.read_text() + PUSHED.replace("1.25", "9.0") + "\n")
    assert results.updates(run).time_s.tolist() == [0.5, 1.25, 9.0]
    assert copy.read_bytes() != before
    csv.write_text(csv.read_text().replace("9.0", "7.0"))  # as many bytes
    os.utime(csv, ns=(0, csv.stat().st_mtime_ns + 1))
    assert results.updates(run).time_s.tolist() == [0.5, 1.25, 7.0]


def test_a_table_that_grows_while_it_is_read_leaves_a_copy_that_is_not_used(large, monkeypatch):
    run, csv, copy = large
    read = files.read

    def grows(path):
        table = read(path)
        csv.write_text(csv.read_text() + PUSHED + "\n")
        return table

    monkeypatch.setattr(files, "read", grows)
    assert len(results.updates(run)) == 2 and copy.exists()
    monkeypatch.setattr(files, "read", read)
    assert len(results.updates(run)) == 3


def test_a_running_runs_table_is_not_copied(large):
    run, _, copy = large
    (run / "summary.json").unlink()
    assert len(results.updates(run)) == 2 and not copy.exists()


def test_a_small_table_is_not_copied(large, monkeypatch):
    run, _, copy = large
    monkeypatch.setattr(files, "LARGE", 10_000)
    assert len(results.updates(run)) == 2 and not copy.exists()


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None])
def test_a_torn_or_foreign_copy_is_replaced(large, content):
    run, csv, copy = large
    pd.DataFrame({"a": [1]}).to_parquet(copy) if content is None else copy.write_bytes(content)
    assert len(results.updates(run)) == 2
    assert files.copied(copy, f"{csv.stat().st_size} {csv.stat().st_mtime_ns}".encode()) is not None


def test_where_nothing_can_be_written_the_table_is_read_all_the_same(large, monkeypatch):
    run, _, copy = large

    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    assert len(results.updates(run)) == 2 and not copy.exists()


def test_a_full_disk_leaves_nothing_behind(large, monkeypatch):
    run, _, copy = large
    from pyarrow import parquet

    def fill(_, path, **__):
        Path(path).write_bytes(b"PAR1")
        raise OSError("no space left on device")

    monkeypatch.setattr(parquet, "write_table", fill)
    assert len(results.updates(run)) == 2
    assert [path.name for path in copy.parent.iterdir()] == ["updates.csv"]


def test_without_pyarrow_the_table_is_read(large, monkeypatch):
    run, _, copy = large
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert len(results.updates(run)) == 2 and not copy.exists()


def test_a_job_begins_when_its_worker_is_answered_which_others_may_still_wait_for():
    """Two of three make a step: worker 3 is late, and goes on at once while worker 1 waits for another."""
    rows = [  # time_s, event, worker, round, version, staleness, waiting
        (0.0, "join", 1, 0, 0, None, 1),
        (0.1, "join", 2, 0, 0, None, 2),
        (0.2, "join", 3, 0, 0, None, 0),
        (1.0, "push", 1, 0, 0, 0, 1),
        (2.0, "push", 2, 0, 1, 0, 0),
        (2.5, "push", 1, 1, 1, 0, 1),
        (3.0, "push", 3, 0, 1, 1, 1),
        (4.0, "push", 2, 1, 2, 0, 0),
        (5.0, "push", 3, 1, 2, 1, 1),
    ]
    events = pd.DataFrame(rows, columns="time_s event worker round version staleness waiting".split())
    table = results.jobs(events)
    assert list(zip(table.worker, table["round"], table.version, strict=True)) == [
        (1, 0, 0), (2, 0, 0), (1, 1, 1), (3, 0, 0), (2, 1, 1), (3, 1, 1)
    ]  # fmt: skip
    assert table.asked.tolist() == [0.0, 0.1, 1.0, 0.2, 2.0, 3.0]
    assert table.began.tolist() == [0.2, 0.2, 2.0, 0.2, 2.0, 3.0] and not table.dropped.any()
    assert table.ended.tolist() == [1.0, 2.0, 2.5, 3.0, 4.0, 5.0]


def test_work_that_was_dropped_is_told():
    """Worker 2 is given version 0, and version 1 in the middle of it."""
    rows = [
        (0.0, "join", 1, 0, 0, None, 1),
        (0.0, "join", 2, 0, 0, None, 0),
        (1.0, "push", 2, 0, 0, 0, 0),
        (2.0, "push", 1, 0, 1, 0, 0),
        (2.0, "cancel", None, None, 1, 1, 0),
        (4.0, "push", 2, 1, 1, 0, 0),
    ]
    table = results.jobs(pd.DataFrame(rows, columns="time_s event worker round version staleness waiting".split()))
    assert (table.began.tolist(), table.dropped.tolist()) == ([0.0, 0.0, 2.0], [False, False, True])
