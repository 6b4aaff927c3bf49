"""Sweeps: one complete run folder per job; a job that diverges or fails does not end them."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from asgd import results, run


@pytest.mark.slow
def test_a_sweep_gives_a_whole_folder_per_job_and_goes_on_after_a_diverged_one(start, tmp_path):
    sweep = tmp_path / "sweep"
    command = start(
        *("-m", "workers=1,2", "optimizer.lr=0.05,1e20", "budget.epochs=null", "budget.updates=50"),
        *("evaluate.every=25", f"hydra.sweep.dir={sweep}"),
    )
    output = command.wait()
    assert command.code == 0, output
    table = results.load(sweep)
    assert list(zip(table.workers, table["optimizer.lr"], table.ended, strict=True)) == [
        (1, 0.05, "budget"),
        (1, 1e20, "diverged"),
        (2, 0.05, "budget"),
        (2, 1e20, "diverged"),
    ]
    for folder, workers in zip(table.folder, table.workers, strict=True):
        assert len(results.metrics(folder).worker.unique()) == workers


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_job_with_a_mistake(start, tmp_path):
    sweep = tmp_path / "sweep"
    command = start("-m", "workers=0,1", "engine=threads", "budget.epochs=1", f"hydra.sweep.dir={sweep}")
    output = command.wait()
    assert "workers=0: a whole number from 1 on" in output and command.code != 0
    assert not (sweep / "0").exists()
    assert results.summary(sweep / "1")["ended"] == "budget"


def test_main_returns_the_objective(tmp_path):
    with initialize_config_dir(str(run.CONF), version_base="1.3"):
        options = ["engine=threads", "budget.epochs=1", "objective=staleness_max"]
        HydraConfig.instance().set_config(compose("config", options, return_hydra_config=True))
        config = run.resolve(compose("config", options))
    assert run.run(config, tmp_path, []) == results.summary(tmp_path)["staleness_max"]
