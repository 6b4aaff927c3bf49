"""Sweeps that were interrupted go on with what is missing; what starts their jobs."""

import json
import os
import re

import pytest

from asgd import command_line, machine, results, sweeps
from tests import runs
from tests.test_tuning import QUADRATIC

DEADLY = (
    "topology.worker._target_=tests.broken.KilledOnce",
    "+topology.worker.fails={1: 4}",
    "+topology.worker.seed_of_death=1",
    "engine.at_once=1",  # or a gradient may be computed with others, before its turn
)


def record(folder) -> dict:
    """What a run has written; the log of the command and Hydra's own files are written again."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    return {path: path.read_bytes() for path in files if path.name != "run.log"}


def test_a_sweep_that_was_killed_goes_on_with_what_is_missing(start, tmp_path):
    sweep = tmp_path / "sweep"
    words = ("-m", *QUADRATIC, *DEADLY, f"+topology.worker.marker={tmp_path}/marker", "seed=0,1,2")
    killed = start(*words, f"hydra.sweep.dir={sweep}")
    killed.wait()
    assert killed.code == -9 and (sweep / "0/summary.json").exists()
    assert (sweep / "1/parameters.json").exists() and not (sweep / "1/summary.json").exists()
    assert not (sweep / "2").exists()
    (sweep / "0").rename(sweep / "7")  # a job is known by its options
    before = record(sweep / "7")

    command = start(f"sweep.resume={sweep}", "-m")
    output = command.wait()
    assert command.code == 0, output
    assert f"finished before: {sweep}/7" in output and record(sweep / "7") == before
    table = results.load(sweep)
    assert {(path.rpartition("/")[2], seed) for path, seed in zip(table.folder, table.seed, strict=True)} == {
        ("7", 0),
        ("1", 1),
        ("2", 2),
    }
    for folder, seed in zip(table.folder, table.seed, strict=True):
        whole = runs.run(tmp_path / f"whole{seed}", *QUADRATIC, f"seed={seed}")
        assert results.updates(folder).equals(results.updates(whole))


SWEEP = {"words": ["model=mlp", "seed=0,1", "+a.b=1", "hydra.sweep.dir=old", "hydra/launcher=joblib"]}


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    return f"sweep.resume={tmp_path}"


def test_the_words_of_a_sweep_come_back(recorded, tmp_path):
    there = f"hydra.sweep.dir={tmp_path}"
    expected = ["--multirun", "model=mlp", "seed=0,1", "+a.b=1", "hydra/launcher=joblib", there]
    assert command_line.continued([recorded]) == expected
    assert sorted(command_line.continued(["-m", "seed=0,1", recorded])) == sorted(expected)
    changed = command_line.continued([recorded, "hydra/launcher=basic"])
    assert changed == ["--multirun", "model=mlp", "seed=0,1", "+a.b=1", "hydra/launcher=basic", there]
    assert command_line.continued(["-m", "seed=0,1"]) == ["-m", "seed=0,1"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=0,1,2", "that sweep was started with seed=0,1, this command says seed=0,1,2; leave it out"),
        ("workers=4", "that sweep was started without workers, this command says workers=4"),
        ("hydra/sweeper=tuned", "that sweep was started without hydra/sweeper"),
    ],
)
def test_a_sweep_that_goes_on_with_other_options_is_refused(recorded, word, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        command_line.continued(["-m", word, recorded])


def test_where_no_sweep_is_none_goes_on(start, tmp_path):
    command = start(f"sweep.resume={tmp_path}/nothing", "-m")
    assert f"sweep.resume={tmp_path}/nothing: no sweep there" in command.wait() and command.code == 2
    assert list(tmp_path.iterdir()) == []


def begin(folder, *options) -> dict:
    """A finished run in the folder; its configuration."""
    runs.run(folder, *QUADRATIC, "topology=async", *options)
    return results.parameters(folder)["config"]


def test_a_finished_job_is_not_done_again_but_a_begun_one_is_as_its_checkpoints_allow(tmp_path):
    plain, saved = (begin(tmp_path / name, f"checkpoint.every={n}") for name, n in (("plain", 0), ("saved", 5)))
    for config, run in ((plain, tmp_path / "plain"), (saved, tmp_path / "saved")):
        assert sweeps.summary(config, run) == results.summary(run)
        interrupted = results.summary(run) | {"ended": "interrupted"}
        (run / "summary.json").write_text(json.dumps(interrupted))
        assert sweeps.summary(config, run) is None
    assert sweeps.going_on(saved, tmp_path / "saved") == saved | {"resume": str(tmp_path / "saved")}
    (tmp_path / "plain/run.log").touch(), (tmp_path / "plain/.hydra").mkdir()
    assert sweeps.going_on(plain, tmp_path / "plain") == plain
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"run.log", ".hydra"}
    assert sweeps.summary(plain, tmp_path / "new") is None


def test_a_job_whose_options_have_changed_in_a_file_is_refused(tmp_path):
    config = begin(tmp_path / "run")
    changed = config | {"optimizer": config["optimizer"] | {"momentum": 0.9}}
    with pytest.raises(ValueError, match=r"a run with optimizer.momentum=0.0, and this one has 0.9; "):
        sweeps.summary(changed, tmp_path / "run")
    assert sweeps.summary(config | {"threads": 7, "device": "cuda", "resume": "x"}, tmp_path / "run")


def test_one_process_at_a_time_is_at_a_run(tmp_path):
    with (
        sweeps.held(tmp_path),
        pytest.raises(ValueError, match="another process is at this run"),
        sweeps.held(tmp_path),
    ):
        pass
    with sweeps.held(tmp_path):
        pass


@pytest.mark.parametrize(
    ("environment", "workers", "threads"),
    [
        ({}, 2, 4),
        ({"OMP_NUM_THREADS": "2"}, 1, 2),
        ({"OMP_NUM_THREADS": "2"}, 4, 1),
        ({"OMP_NUM_THREADS": "64"}, 2, 4),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, 2, 2),
    ],
)
def test_threads_share_what_a_launcher_leaves_to_a_job(monkeypatch, environment, workers, threads):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    assert machine.find_threads("auto", workers) == threads


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=re.escape("hydra/launcher=slurm: its package is not installed; pip install asgd[submitit]")
    ):
        command_line.prepare(["-m", "hydra/launcher=slurm"])
    assert command_line.prepare(["hydra/launcher=basic", "topology=async"]) == [
        "hydra/launcher=basic",
        "topology=async",
    ]


LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", ("hydra.launcher.n_jobs=2",)),
    "submitit_local": ("hydra_submitit_launcher", ()),
    "ray": ("hydra_ray_launcher", ("+hydra.launcher.ray.init.num_cpus=2",)),
}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_runs_a_sweep_and_goes_on_with_one(start, tmp_path, name):
    package, options = LAUNCHERS[name]
    pytest.importorskip(f"hydra_plugins.{package}")
    sweep = tmp_path / "sweep"
    words = (
        "-m",
        *QUADRATIC,
        "workers=2",
        "seed=0,1,2",
        f"hydra/launcher={name}",
        *options,
        f"hydra.sweep.dir={sweep}",
    )
    command = start(*words)
    output = command.wait(180)
    assert command.code == 0, output
    for seed in range(3):
        whole = runs.run(tmp_path / f"whole{seed}", *QUADRATIC, "workers=2", f"seed={seed}")
        assert results.updates(sweep / str(seed)).equals(results.updates(whole))
    (sweep / "1/summary.json").unlink()
    before = record(sweep / "2")
    command = start(f"sweep.resume={sweep}", "-m")
    output = command.wait(180)
    assert command.code == 0, output
    assert results.summary(sweep / "1")["ended"] == "budget" and record(sweep / "2") == before


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_joblib_runs_real_processes_and_shares_the_cores(start, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = tmp_path / "sweep"
    command = start(
        *("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "workers=1", "seed=0,1", "budget.epochs=1"),
        f"hydra.sweep.dir={sweep}",
    )
    output = command.wait(180)
    assert command.code == 0, output
    assert list(results.load(sweep).ended) == ["budget", "budget"]
    for seed in range(2):
        threads = json.loads((sweep / str(seed) / "stats/worker1/parameters.json").read_text())["threads"]
        assert threads == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_goes_on_after_diverged_runs_and_finds_what_does_not_diverge(start, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = tmp_path / "sweep"
    wide = 'hydra.sweeper.params={optimizer.lr: "tag(log, interval(1e-3, 1e6))"}'
    words = ("-m", "hydra/sweeper=search", *QUADRATIC, "budget.updates=200", wide, "hydra.sweeper.n_trials=8")
    command = start(*words, f"hydra.sweep.dir={sweep}")
    output = command.wait(180)
    assert command.code == 0, output
    table = results.load(sweep)
    assert len(table) == 8 and set(table.ended) == {"budget", "diverged"}
    found = (sweep / "optimization_results.yaml").read_text()
    best = table[table.ended == "budget"].final_loss.min()
    assert float(re.search(r"best_value: (\S+)", found)[1]) == best
    finished = {number: record(sweep / str(number)) for number in range(5)}
    for number in range(5, 8):
        (sweep / str(number) / "summary.json").unlink()
    command = start(f"sweep.resume={sweep}", "-m")
    output = command.wait(180)
    assert command.code == 0, output
    assert finished == {number: record(sweep / str(number)) for number in range(5)}
    assert (sweep / "optimization_results.yaml").read_text() == found


def test_a_folder_of_files_is_on_record_and_may_be_elsewhere_now(tmp_path):
    (tmp_path / "sweep.json").write_text('{"words": ["--config-dir=/then", "topology=mine,async"]}')
    again = f"sweep.resume={tmp_path}"
    for given, folder in ([], "/then"), (["--config-dir=/now"], "/now"):
        flags, options = (
            ["--multirun", f"--config-dir={folder}"],
            ["topology=mine,async", f"hydra.sweep.dir={tmp_path}"],
        )
        assert command_line.prepare([again, *given]) == flags + options
