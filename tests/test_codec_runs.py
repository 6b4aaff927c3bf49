"""Codecs in whole runs: what they cost, what they keep exact, on every engine."""

import pytest
import torch

from asgd import results
from tests.runs import parameters, record, replayed, run
from tests.scripted import DIGITS, a_job, a_server, an_update

CODECS = ("bf16", "fp16", "topk", "random_block", "qsgd", "powersgd", "sign")
MLP = ("model=mlp", "dataset=digits", "dataset.batch_size=64")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("topology", ["async", pytest.param("fedbuff", marks=pytest.mark.slow)])
def test_a_run_with_a_codec_is_replayed_and_its_bytes_are_counted(tmp_path, codec, topology):
    options = ("workers=3", f"codec={codec}", f"topology={topology}", "timing=cvb_homogeneous", "budget.updates=12")
    source = run(tmp_path / "run", "engine=virtual", *options, problem=MLP)
    task, table, summary = a_job(problem=MLP).task("cpu"), results.updates(source), results.summary(source)
    sent = a_job(*options[1:2], problem=MLP).codec(task, 1).nbytes
    pushes = table[table.event == "push"]
    assert set(pushes.bytes) == {sent} and sent < task.params.nbytes
    assert table[table.event == "join"].bytes.isna().all()
    assert summary["bytes_pushed"] == sent * len(pushes)
    assert summary["bytes_pulled"] == task.params.nbytes * (3 + len(pushes) - table.waiting.iloc[-1] - 1)
    assert replayed(source, tmp_path / "replay")["equal"]
    assert record(tmp_path / "replay") == record(source)


@pytest.mark.parametrize("engine", ["threads", "virtual"])
def test_everything_sent_by_top_k_is_what_sgd_sends(tmp_path, engine):
    """``fraction=1`` leaves nothing out: the very same run."""
    options = ("workers=1", f"engine={engine}", "budget.updates=20")
    plain = run(tmp_path / "plain", *options, problem=MLP)
    coded = run(tmp_path / "coded", *options, "codec=topk", "codec.fraction=1", problem=MLP)
    assert torch.equal(parameters(plain), parameters(coded))


def test_threads_with_a_codec_are_replayed(tmp_path):
    options = ("engine=threads", "workers=3", "codec=qsgd", "topology=k_async", "budget.updates=30")
    source = run(tmp_path / "run", *options, problem=MLP)
    assert replayed(source, tmp_path / "replay")["equal"]


@pytest.mark.slow
def test_processes_with_a_codec(start):
    run = start(*MLP, "codec=topk", "budget.updates=20", "evaluate.every=0")
    output = run.wait()
    assert run.code == 0, output
    assert (
        results.summary(run.folder)["bytes_pushed"]
        < 21 * 2 * 4 * results.parameters(run.folder)["parameter_count"] / 50
    )


def test_compressed_training_learns(tmp_path):
    options = (
        "engine=virtual",
        "workers=4",
        "codec=topk",
        "codec.fraction=0.05",
        "optimizer.lr=0.05",
        "evaluate.every=400",
    )
    source = run(tmp_path / "run", *options, "budget.updates=400", problem=MLP)
    assert results.summary(source)["final_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("way", "full", "half"),
    [("uplink", "codec=none", "codec=bf16"), ("downlink", "wire.weights=fp32", "wire.weights=bf16")],
)
def test_a_faster_link_for_fewer_bytes(tmp_path, way, full, half):
    """With seconds on one link only, time is updates times bytes over bandwidth."""
    link = ("timing=none", f"+timing.{way}._target_=asgd.timing.Link", f"+timing.{way}.bandwidth=1e6")
    options = ("engine=virtual", *link, "workers=1", "budget.updates=10")
    times = [
        results.updates(run(tmp_path / word, *options, word, problem=MLP)).time_s.iloc[-1] for word in (full, half)
    ]
    size = a_job(problem=MLP).task("cpu").params.nbytes
    assert times == pytest.approx([10 * size / 1e6, 10 * size / 2e6])


def test_a_message_that_no_codec_makes_is_refused():
    server = a_server(1, codec=a_job("codec=bf16", problem=DIGITS).codec(a_job(problem=DIGITS).task("cpu"), 0))
    server.join(1, 10, 0.0)
    with pytest.raises(ValueError, match="worker 1"):
        server.push(an_update(1), 1.0)
