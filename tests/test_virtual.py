"""``engine=virtual``: real updates in virtual time, always the same ones (oracles A14, D1, D2, D7 to D9)."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from asgd import audit, results
from asgd.engines import fleet
from asgd.engines.fleet import Fleet
from asgd.workers import GradientWorker
from tests.runs import BRIEF, finished, parameters, pushes, record, run
from tests.scripted import DIGITS, QUADRATIC, a_job, with_tasks

MLP = ("model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.batch_size=8")
NOTHING = ("model=none", "dataset=noise", "dataset.shape=[3]")
PROBLEMS = {
    "lr": (*QUADRATIC, "optimizer.lr=1e-3"),
    "dtype": (*QUADRATIC, "model.dtype=float32"),
    "linear": (*DIGITS, "dataset.batch_size=1"),
    "nothing": NOTHING,
}
FATES = ("applied", "dropped", "nonfinite", "late", "cancelled")
CLOCK = ["time_s", "event", "worker", "round", "version", "staleness", "applied", "waiting"]


@pytest.fixture
def simulate(tmp_path):
    """``simulate("option=value", ...)`` is the folder of a run in virtual time."""
    numbers = iter(range(100))

    def simulated(*overrides, problem=QUADRATIC):
        return run(tmp_path / str(next(numbers)), "engine=virtual", "workers=5", *overrides, problem=problem)

    return simulated


@pytest.mark.parametrize(
    "topology",
    [
        "async",
        pytest.param("k_async", marks=pytest.mark.slow),
        pytest.param("ssp", marks=pytest.mark.slow),
        pytest.param("ringmaster", marks=pytest.mark.slow),
    ],
)
def test_A14_learning_does_not_move_the_clock(simulate, topology):
    options = (f"topology={topology}", "timing=exponential", "budget.updates=40")
    expected = results.updates(simulate(*options))[CLOCK]
    for name, problem in PROBLEMS.items():
        assert results.updates(simulate(*options, problem=problem))[CLOCK].equals(expected), name


# The same in every way (D1)


@pytest.mark.parametrize(
    ("topology", "problem"),
    [("async", MLP), ("k_batch_async", QUADRATIC), ("rennala", MLP), ("easgd", QUADRATIC)],
    ids=["async", "k_batch_async", "rennala", "easgd"],
)
def test_D1_runs_are_equal_to_the_byte_however_they_are_computed_and_watched(simulate, topology, problem):
    options = (f"topology={topology}", "timing=cvb_heterogeneous", "budget.updates=60")
    first = simulate(*options, problem=problem)
    for other in (
        (),
        ("evaluate.every=7", "checkpoint.every=3"),
        ("engine.at_once=2",),
        ("engine.at_once=1", "engine.gradients=single"),
    ):
        again = simulate(*options, *other, problem=problem)
        assert record(again) == record(first) and torch.equal(parameters(again), parameters(first)), other


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_D2_stacked_gradients_differ_by_rounding_alone(simulate, at_once):
    options = ("timing=exponential", "budget.updates=100")
    one = simulate(*options, "engine.gradients=single", problem=MLP)
    other = simulate(*options, "engine.gradients=stacked", f"engine.at_once={at_once}", problem=MLP)
    assert results.updates(other)[CLOCK].equals(results.updates(one)[CLOCK])
    torch.testing.assert_close(parameters(other), parameters(one), rtol=1e-5, atol=1e-6)


SCRIPTED = {
    QUADRATIC: ["sync", "k_async", "rennala", "ssp_lazy", "dana_slim"],
    MLP: ["async", "dana_zero", "easgd"],
}
CASES = [(problem, topology) for problem, topologies in SCRIPTED.items() for topology in topologies]


@pytest.mark.parametrize(("problem", "topology"), CASES, ids=[topology for _, topology in CASES])
def test_D2_virtual_time_is_the_scripted_server_in_that_order(simulate, problem, topology):
    options = (f"topology={topology}", "workers=4", "budget.updates=40")
    folder = simulate(*options, "timing=exponential", problem=problem)
    script = with_tasks(a_job(*options, problem=problem), interrupts=True).arrive(*map(int, pushes(folder).worker))
    assert torch.equal(script.params, parameters(folder))
    assert [event.loss for event in script.pushes()] == [None if x != x else x for x in pushes(folder).loss]
    assert [event.staleness for event in script.events] == [
        None if x != x else x for x in results.updates(folder).staleness
    ]


def test_D7_a_simulation_of_a_recorded_run_has_its_order(simulate, tmp_path):
    options = ("workers=3", "budget.updates=60")
    real = run(tmp_path / "real", "engine=threads", *options, "timing=none", "timing.compute=[1e-3,2e-3,5e-3]")
    again = simulate(*options, "timing=trace", f"timing.compute.folder={real}")
    columns = ["worker", "round", "version", "staleness", "applied", "loss", "samples"]
    theirs, ours = (pushes(folder)[columns].reset_index(drop=True)[:60] for folder in (real, again))
    assert ours.equals(theirs) and torch.equal(parameters(real), parameters(again))


# The books (D8) and shared memory (D9)


class Given(dict):
    """Worker: its model. Remembers all that were ever given out, with a copy."""

    def __init__(self):
        self.copies = []

    def __setitem__(self, rank, model):
        super().__setitem__(rank, model)
        self.copies.append((model.params, model.params.clone()))


class Watched(Fleet):
    """Leaves its books on the class when it closes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.held = Given()

    def close(self):
        Watched.copies, Watched.in_flight = self.held.copies, len(self.held)
        super().close()


@pytest.mark.parametrize("topology", ["async", "k_async", "k_sync", "ringmaster", "backup", "ssp_lazy", "eamsgd"])
def test_D8_D9_all_that_was_dispatched_is_accounted_for_and_never_written(simulate, topology, monkeypatch):
    monkeypatch.setattr(fleet, "Fleet", Watched)
    folder = simulate(f"topology={topology}", "timing=exponential", "budget.updates=50")
    summary = results.summary(folder)
    assert len(Watched.copies) == sum(summary[fate] for fate in FATES) + Watched.in_flight
    assert all(torch.equal(params, before) for params, before in Watched.copies)
    assert summary["samples"] == pushes(folder).samples[pushes(folder).applied == 1].sum()
    if topology in ("k_sync", "ringmaster"):
        assert summary["cancelled"] > 0 and summary["dropped"] == 0
    assert (summary["dropped"] > 0) == (topology == "backup")


def test_nothing_is_computed_that_is_dropped_on_arrival(simulate, monkeypatch):
    computed, compute = [], GradientWorker.compute
    monkeypatch.setattr(GradientWorker, "compute", lambda *each: computed.append(1) or compute(*each))
    folder = simulate("topology=ringmaster_ignore", "topology.threshold=2", "timing=exponential", "budget.updates=30")
    dropped = results.summary(folder)["dropped"]
    assert dropped > 10 and len(computed) == len(pushes(folder)) - dropped


# Going on


@pytest.mark.parametrize("topology", ["async", "k_async", "rennala", "ssp_lazy", "easgd"])
def test_a_finished_run_goes_on_in_its_own_time(simulate, topology):
    options = (f"topology={topology}", "timing=exponential")
    folder = simulate(*options, "budget.updates=25", "checkpoint.every=7")
    before = results.updates(folder)
    more = (f"resume={folder}", "engine=virtual", "workers=5", *options, "budget.updates=60")
    finished(folder, a_job(*more, limits=BRIEF))
    table = results.updates(folder)
    assert table[: len(before)].equals(before) and table.time_s.is_monotonic_increasing
    assert sorted({0, *table.version}) == list(range(61)) and len(audit.restarts(table)) == 2
    assert not pushes(folder).duplicated(["worker", "round"]).any()
    assert results.summary(folder)["seconds"] == pytest.approx(table.time_s.iloc[-1], rel=1e-12)


@pytest.mark.slow
def test_the_command_line_runs_and_resumes_in_virtual_time(start):
    options = ("engine=virtual", "workers=20", "model=mlp", "topology=k_sync", "budget.epochs=null")
    first = start(*options, "budget.updates=100", "evaluate.every=50")
    assert "updates" in first.wait() and first.code == 0, first.output
    again = start(f"resume={first.folder}", "budget.updates=150")
    assert "resumed at version 100" in again.wait() and again.code == 0, again.output
    assert results.summary(first.folder)["updates"] == 150 and results.summary(first.folder)["cancelled"] > 0


# What it refuses


def refused(*overrides, problem=QUADRATIC) -> str:
    job = a_job("engine=virtual", *overrides, problem=problem, limits=BRIEF)
    with pytest.raises(ValueError) as caught:
        job.engine.reserve(job)
    return str(caught.value)


@pytest.mark.parametrize("role", ["ps", "worker", "evaluator"])
def test_other_roles_are_refused(role):
    assert "every role in one process; role=all" in refused(f"role={role}", "rank=1")


def test_hundreds_of_reading_processes_are_refused():
    data = ("model=mlp", "dataset=tiny_imagenet", "dataset.url=x", "dataset.val_url=x", "dataset.loaders=4")
    assert "dataset.loaders=4: 400 processes would read; give 0" in refused("workers=100", problem=data)


def test_more_than_four_fifths_of_the_memory_is_refused_with_the_remedy(monkeypatch):
    options = ("workers=1000", "dataset.shape=[100000]", "budget.updates=1")
    job = a_job("engine=virtual", *options, problem=("model=quadratic", "dataset=noise"), limits=BRIEF)
    here, need = psutil.Process().memory_info().rss, 2 * 1000 * 8 * 100_000  # two vectors of each worker
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2 * (here + need)))
    job.engine.reserve(job)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=here + need))
    text = refused(*options, problem=("model=quadratic", "dataset=noise"))
    assert "workers=1000 may need" in text and "80%" in text and "fewer workers or a smaller model" in text


@pytest.mark.parametrize("option", ["engine.at_once=0", "engine.gradients=stack"])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(Exception, match=option.replace(".", r"\.")):
        a_job("engine=virtual", option, limits=BRIEF)
