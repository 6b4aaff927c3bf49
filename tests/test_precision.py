"""Models in 16 bits: what workers are given, what stays as it was, and that a run means the same on every engine."""

import pytest
import torch

from asgd import checkpoints, results
from asgd.precision import Precision
from tests.runs import replayed, run
from tests.scripted import TOPOLOGIES, a_job, a_server, an_update, with_formula

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PIECES = torch.tensor([1.00390625, 0.3333333, 1e-3])
MLP = ("model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.batch_size=8")


@pytest.mark.parametrize("name", DTYPES)
def test_each_version_is_rounded_once_and_the_server_keeps_its_own(name):
    server = a_server(2, weights=Precision(name), initial=PIECES.clone())
    server.join(1, 10, 0.0)
    first, second = (reply.model for reply in server.join(2, 20, 0.0))
    assert first.params.dtype == DTYPES[name] and torch.equal(first.params, PIECES.to(DTYPES[name]))
    assert first.params is second.params and first.version == 0
    assert torch.equal(server.snapshot().params, PIECES)
    given = server.push(an_update(1, value=0.25), 1.0)[0].model
    assert torch.equal(given.params, (PIECES - 0.25).to(DTYPES[name]))
    assert torch.equal(first.params, PIECES.to(DTYPES[name]))  # as it was
    assert torch.equal(server.snapshot().params, PIECES - 0.25)


def test_large_versions_take_turns_in_the_same_memory():
    precision, places = Precision("bf16"), []
    for version in range(6):
        model = a_server(1, initial=torch.full((3_000_000,), float(version))).snapshot()
        given = precision.rounded(model)
        assert given.params.eq(version).all() and precision.rounded(model) is given
        places.append(given.params.data_ptr())
        del given
    assert len(set(places)) <= 2


@pytest.mark.parametrize("name", DTYPES)
def test_one_worker_descends_from_what_it_was_given(name):
    """The gradient of |x|^2 / 2 at the rounded x moves the x that is not."""
    job = a_job("workers=1", f"wire.weights={name}", "optimizer.lr=0.1", "optimizer.momentum=0")
    script = with_formula(job, lambda rank, round, params: params.double())
    expected = script.params.clone()
    for _ in range(20):
        expected -= 0.1 * expected.to(DTYPES[name]).double()
        script.arrive(1)
        assert torch.equal(script.params, expected)


def test_a_correction_sees_what_the_worker_was_given():
    job = a_job("workers=2", "topology=dc_asgd", "topology.strength=0.5", "wire.weights=bf16", "optimizer.lr=0.1")
    script = with_formula(job, lambda rank, round, params: params.double())
    start = script.params.clone()
    gradient = view = start.bfloat16().double()
    script.arrive(1, 2)
    after = start - 0.1 * (gradient + 0.5 * gradient**2 * (start - view))
    after = after - 0.1 * (gradient + 0.5 * gradient**2 * (after - view))
    assert not torch.equal(start, view) and torch.allclose(script.params, after, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("engine", "topology"), [("threads", "dc_asgd"), ("virtual", "fedasync"), ("virtual", "ssp_lazy")]
)
def test_a_run_is_replayed_and_its_bytes_are_counted(tmp_path, engine, topology):
    options = (f"engine={engine}", "workers=3", f"topology={topology}", "wire.weights=fp16", "budget.updates=20")
    source = run(tmp_path / "run", *options, problem=MLP)
    task, table = a_job(problem=MLP).task("cpu"), results.updates(source)
    pushes = (table.event == "push").sum()
    given = results.summary(source)["bytes_pulled"] / (2 * task.params.numel())
    assert given == int(given) and 20 <= given < 3 + pushes
    assert engine == "threads" or given == 3 + pushes - table.waiting.iloc[-1] - 1  # the last one was told to stop
    assert results.summary(source)["bytes_pushed"] == 4 * task.params.numel() * pushes
    assert checkpoints.load(source)["server"]["parameters"]["params"].dtype == torch.float32
    assert replayed(source, tmp_path / "replay")["equal"]


def test_numbers_beyond_float16_end_as_diverged(tmp_path):
    options = ("engine=virtual", "workers=1", "wire.weights=fp16", "budget.updates=1000", "optimizer.lr=30")
    assert results.summary(run(tmp_path / "run", *options))["ended"] == "diverged"


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_elastic_averaging_needs_the_very_numbers(topology):
    job = a_job(f"topology={topology}", "wire.weights=bf16", "workers=3")
    if topology in ("easgd", "eamsgd"):
        with pytest.raises(ValueError, match=r"wire\.weights=bf16 does not fit .*ElasticWorker: .* wire\.weights=fp32"):
            job.check()
    else:
        job.check()


def test_a_precision_that_is_none():
    with pytest.raises(ValueError, match=r"wire\.weights=int8: one of fp32, bf16, fp16"):
        a_job("wire.weights=int8")
