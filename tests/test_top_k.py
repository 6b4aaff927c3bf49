"""Top-k accuracy: every engine's evaluations report it where the data set asks for it, and only there."""

import numpy as np
import pytest
from hydra.errors import InstantiationException

from asgd import checkpoints, results
from asgd.display import report
from asgd.job import Job
from tests.runs import replayed, run

DIGITS = ("dataset=digits", "model=linear", "workers=2", "budget.updates=20", "evaluate.every=10", "optimizer.lr=0.5")


def a_run(folder, *words):
    return run(folder, *DIGITS, *words, problem=())


def judged_by_hand(folder, k):
    """The share of validation samples with fewer than ``k`` outputs above that of the label."""
    job, server = Job(results.parameters(folder)["config"]), checkpoints.load(folder)["server"]
    task = job.task("cpu")
    task.load(server["parameters"]["params"], task.buffers)
    batch = next(job.dataset.evaluation())
    outputs, labels = task.module(batch.inputs).detach().numpy(), batch.targets.numpy()
    above = (outputs > np.take_along_axis(outputs, labels[:, None], 1)).sum(1)
    return (above < k).mean()


@pytest.mark.parametrize("engine", ["virtual", "threads", pytest.param("rpc", marks=pytest.mark.slow)])
def test_evaluations_count_labels_among_the_k_highest_outputs(tmp_path, engine):
    folder = a_run(tmp_path, f"engine={engine}", "dataset.top_k=3")
    table, summary = results.evaluation(folder), results.summary(folder)
    assert table.version.tolist() == [10, 20] and (table.top_k_accuracy > table.accuracy).all()
    assert table.top_k_accuracy.iloc[-1] == judged_by_hand(folder, 3) == summary["final_top_k_accuracy"]
    assert table.accuracy.iloc[-1] == judged_by_hand(folder, 1)
    assert summary["best_top_k_accuracy"] == table.top_k_accuracy.max()
    final, best = table.top_k_accuracy.iloc[-1], table.top_k_accuracy.max()
    assert f", top-k accuracy {final:.4f} (best {best:.4f})" in report(summary, "")


def test_a_replay_evaluates_in_the_same_way(tmp_path):
    source = a_run(tmp_path / "source", "engine=virtual", "dataset.top_k=3")
    assert replayed(source, tmp_path / "again")["equal"]
    assert results.evaluation(tmp_path / "again").equals(results.evaluation(source))


def test_nobody_asked(tmp_path):
    folder = a_run(tmp_path, "engine=virtual")
    assert results.evaluation(folder).top_k_accuracy.isna().all()
    summary = results.summary(folder)
    assert summary["final_top_k_accuracy"] is summary["best_top_k_accuracy"] is None
    assert "accuracy" in report(summary, "") and "top-k" not in report(summary, "")


@pytest.mark.parametrize("value, message", [("11", "at most dataset.classes=10"), ("0", "an integer of at least 1")])
def test_bad_values_are_named(tmp_path, value, message):
    with pytest.raises(InstantiationException, match=f"dataset.top_k={value}: must be {message}"):
        a_run(tmp_path, "engine=virtual", f"dataset.top_k={value}")
