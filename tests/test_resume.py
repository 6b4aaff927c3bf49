"""``resume=<folder>``: a run that was killed goes on from its checkpoint, and nothing is counted twice."""

import pytest

from asgd import results

OPTIONS = ["budget.epochs=null", "budget.updates=400", "evaluate.every=100", "checkpoint.every=100"]


def assert_is_whole(folder, updates: int, killed_at: int) -> None:
    """Each round and each version once, and every evaluation but those not ready when the run was killed."""
    events = results.updates(folder)
    pushes = events[events.event == "push"]
    assert not pushes.duplicated(["worker", "round"]).any()
    assert sorted({0, *pushes[pushes.applied == 1].version}) == list(range(updates + 1))
    for worker, rounds in pushes.groupby("worker")["round"]:
        assert list(rounds) == list(range(len(rounds))), worker
    rows = results.metrics(folder)
    assert len(rows) == len(pushes)
    judged = list(results.evaluation(folder).version)
    assert judged == sorted(set(judged)) and set(range(killed_at, updates + 1, 100)) <= set(judged)
    summary = results.summary(folder)
    assert (summary["ended"], summary["updates"]) == ("budget", updates)
    assert summary["samples"] == pushes[pushes.applied == 1].samples.sum()


@pytest.mark.parametrize("topology", ["async", pytest.param("sync", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on(start, topology):
    slowly = ("timing=none", "timing.compute=5e-3")  # so that it cannot end before it is killed
    run = start(*OPTIONS, *slowly, "model=mlp", f"topology={topology}", "optimizer.momentum=0.5", "schedule=cosine")
    run.until(lambda: list(run.folder.glob("checkpoints/*200.pt")))
    for process in run.processes():
        process.kill()
    run.wait()
    killed_at = max(int(path.stem) for path in run.folder.glob("checkpoints/*.pt"))
    (run.folder / "checkpoints/000000399.tmp").touch()  # as if it had been killed while it wrote that one
    again = start(f"resume={run.folder}")
    output = again.wait()
    assert again.code == 0, output
    assert f"resumed at version {killed_at}" in output
    assert_is_whole(run.folder, 400, killed_at)
    assert not list(run.folder.glob("checkpoints/*.tmp"))
    assert results.parameters(run.folder)["config"]["model"]["_target_"].endswith("mlp")


@pytest.mark.slow
def test_a_finished_run_goes_on_with_a_larger_budget(start):
    first = start(*OPTIONS, "engine=threads")
    assert first.wait() and first.code == 0
    again = start(f"resume={first.folder}", "budget.updates=700")
    assert "resumed at version 400" in again.wait() and again.code == 0
    assert_is_whole_but_for_late_pushes(first.folder)


def assert_is_whole_but_for_late_pushes(folder) -> None:
    events = results.updates(folder)
    pushes = events[events.event == "push"]
    assert not pushes.duplicated(["worker", "round"]).any()
    assert list(pushes[pushes.applied == 1].version) == list(range(1, 701))
    assert (results.summary(folder)["updates"], results.summary(folder)["ended"]) == (700, "budget")
    assert results.updates(folder).time_s.is_monotonic_increasing


@pytest.mark.slow
def test_another_model_is_refused_and_the_run_left_as_it_was(start):
    first = start(*OPTIONS, "engine=threads")
    assert first.wait() and first.code == 0
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    again = start(f"resume={first.folder}", "model=mlp")
    output = again.wait()
    assert again.code == 2 and "asgd.models.dense.mlp" in output and "Traceback" not in output
    after = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} <= {first.folder / "run.log"}
