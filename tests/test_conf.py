"""The files in conf: each one explains itself, composes with the others, and builds what it names."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class

from asgd import sweeps
from asgd.command_line import PLUGINS
from asgd.job import Job
from asgd.server import Server
from tests.scripted import CONF, DIGITS, ENDLESS, QUADRATIC, a_job, with_tasks

FILES = sorted(path for path in CONF.glob("*/*.yaml"))
NEEDED = {
    "engine/replay": ("engine.source=outputs",),
    "schedule/cosine": ("budget.updates=100",),
    "schedule/step": ("schedule.milestones=[10]",),
    "timing/trace": (f"timing.compute.folder={Path(__file__).parent / 'recorded'}",),
}
NESTED = sorted((CONF / "experiment").glob("*/**/*.yaml"))
WITH = {  # what belongs to the cases of a folder
    "experiment/stragglers/size": ("+experiment/stragglers=problem",),
    "experiment/stragglers/timing": ("+experiment/stragglers=problem",),
}
SMALL = {"cnn": ("model.channels=[4]",), "resnet18": ("model.stem=cifar",), "resnet50": ("model.stem=cifar",)}
SHARDED = ("cifar10", "cifar100", "fashion_mnist", "folder", "imagenet", "shards", "tiny_imagenet")


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def each(group: str):
    return pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF / group).glob("*.yaml")))


def build(path: Path) -> Job:
    """The job of the default configuration with this one file chosen."""
    return a_job(f"{path.parent.name}={path.stem}", *NEEDED.get(name(path), ()), problem=(), limits=())


@pytest.mark.parametrize("path", [CONF / "config.yaml", *FILES], ids=lambda path: path.stem)
def test_every_file_starts_with_what_it_is(path):
    lines = path.read_text().splitlines()
    first = lines[lines[0].startswith("# @package")]
    assert first.startswith("# ") and len(first) > 20


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_composes_and_its_objects_are_built(path):
    job = build(path)
    if path.parent.name != "experiment":
        assert path.parent.name in job.config
    assert job.engine is not None and callable(job.parts["model"])
    assert job.parts["schedule"].factor(0, 0) > 0
    assert job.dataset.batch_size >= 1 and callable(job.dataset.loss)


@pytest.mark.parametrize("path", NESTED, ids=lambda path: str(path.relative_to(CONF).with_suffix("")))
def test_every_case_of_an_experiment_explains_itself_and_its_objects_are_built(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith("# ")
    folder = path.parent.relative_to(CONF)
    assert callable(a_job(*WITH.get(str(folder), ()), f"+{folder}={path.stem}", problem=(), limits=()).parts["model"])


@pytest.mark.parametrize("path", sorted((CONF / "hydra").glob("*/*.yaml")), ids=name)
def test_what_starts_sweeps_explains_itself_and_names_what_there_is(path):
    pytest.importorskip(f"hydra_plugins.{PLUGINS.get(path.stem, ('asgd_tuned',))[0]}")
    assert path.read_text().startswith("# ")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", [f"hydra/{path.parent.name}={path.stem}"], return_hydra_config=True)
    chosen = config.hydra[path.parent.name]
    assert get_class(chosen._target_).__module__.startswith("hydra_plugins.")


def test_a_search_goes_where_the_objective_is_better():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweeps.register()
    for objective, direction in (("final_accuracy", "maximize"), ("final_loss", "minimize")):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            words = ["hydra/sweeper=search", f"objective={objective}"]
            assert compose("config", words, return_hydra_config=True).hydra.sweeper.direction == direction


@pytest.mark.parametrize("choice", SHARDED)
def test_a_data_set_without_its_files_says_so_only_when_it_is_checked(choice):
    job = a_job("model=linear", f"dataset={choice}", problem=())
    with pytest.raises(ValueError, match=r"dataset\.(url|path)="):
        job.check()


def test_every_other_data_set_passes_its_check():
    others = {path.stem for path in (CONF / "dataset").glob("*.yaml")} - {*SHARDED}
    assert {"digits", "noise", "least_squares"} <= others
    for choice in sorted(others - {"noise"}):
        a_job("model=linear", f"dataset={choice}", problem=()).check()
    a_job(problem=QUADRATIC).check()


@each("topology")
def test_every_topology_passes_its_check_and_trains(choice):
    job = a_job(f"topology={choice}", "workers=3", problem=DIGITS)
    job.check()
    script = with_tasks(job)
    before = script.params
    script.arrive(*(1, 2, 3) * 4)
    assert script.server.version >= 1 and script.params.isfinite().all() and not torch.equal(script.params, before)


@each("optimizer")
def test_every_optimizer_moves_the_parameters(choice):
    script = with_tasks(a_job(f"optimizer={choice}", problem=DIGITS)).arrive(1, 2)
    assert script.server.version == 2 and not torch.equal(script.models[0].params, script.params)


@each("model")
def test_every_model_makes_a_server_and_a_worker(choice):
    problem = QUADRATIC if choice == "quadratic" else (f"model={choice}", "dataset=digits", *SMALL.get(choice, ()))
    job = a_job(problem=problem)
    task = job.task("cpu")
    server, worker = job.server(task), job.worker(task, rank=1, session=0)
    assert server.snapshot().params.numel() == task.params.numel() == worker.task.params.numel()
    assert server.snapshot().buffers.numel() == task.buffers.numel()


def test_the_main_job_passes_its_check_and_learns():
    a_job(problem=(), limits=()).check()
    job = a_job(problem=(), limits=ENDLESS)
    script = with_tasks(job)
    before = job.evaluate(job.task("cpu"), script.server.snapshot())
    after = job.evaluate(job.task("cpu"), script.arrive(*[1, 2] * 40).server.snapshot())
    assert after.loss < before.loss and after.accuracy > before.accuracy


def test_equal_seeds_make_equal_models_in_every_process_and_other_seeds_do_not():
    models = [a_job(f"seed={seed}", problem=DIGITS).task("cpu").params for seed in (3, 3, 4)]
    assert torch.equal(models[0], models[1]) and not torch.equal(models[0], models[2])


class Own(Server):
    """A server as a user may write one."""


def test_a_user_can_put_a_class_of_their_own_into_a_topology():
    job = a_job(f"topology.server._target_={Own.__module__}.Own", problem=DIGITS)
    assert isinstance(job.server(job.task("cpu")), Own)
