"""Mistakes get one clear message before anything is started, and leave no run folder."""

import re
import socket

import pytest
from hydra import compose, initialize_config_dir

from asgd import command_line, run
from tests.conftest import FAST

SGD = ("momentum", "nesterov", "weight_decay", "fused")
MISTAKES = {
    "an unknown option": (["optimizer.learning_rate=1"], "learning_rate"),
    "an unknown group": (["topology=asink"], "asink"),
    "no workers": (["workers=0"], "workers=0: a whole number from 1 on"),
    "a rank out of range": (["role=worker", "rank=3"], "rank=3: a worker of workers=2 has a rank from 1 to 2"),
    "no rank": (["role=worker"], "rank=None"),
    "an unknown role": (["role=boss"], "role=boss: one of all, ps, worker, evaluator"),
    "a missing url": (["dataset=cifar10"], "dataset.url"),
    "a url that matches nothing": (
        ["dataset=cifar10", "dataset.url=/nowhere/x-{0..3}.tar", "dataset.val_url=/nowhere/y.tar"],
        "/nowhere/x-",
    ),
    "labels beyond the model's classes": (["model.classes=7"], "7 outputs but the data set has 10 classes"),
    "a device that is not there": (["device=cuda:63"], "device=cuda:63"),
    "an added option that nobody reads": (
        ["+evaluate.evry=5"],
        "evaluate.evry: no such option (did you mean every?); evaluate has every",
    ),
    "a device that is none": (["device=gpu"], "device=gpu: cpu, cuda"),
    "beyond loopback": (["engine.host=192.0.2.1"], "engine.trusted_network=true"),
    "a host that is not here": (["engine.host=192.0.2.1", "engine.trusted_network=true"], "an address of this machine"),
    "no budget": (["budget.epochs=null"], "budget"),
    "a negative budget": (["budget.updates=-1"], "budget.updates=-1"),
    "an unknown objective": (["objective=acuracy"], "final_accuracy"),
    "a time to no target": (["objective=target_seconds"], "give target.loss or target.accuracy"),
    "an unknown objective among several": (["objective=[final_loss,loss]"], "objective=loss: one of"),
    "an unknown policy for buffers": (["buffers=mine"], "buffers=mine: one of server_mean, latest, recompute"),
    "an unknown choice": (["nonfinite=ignore"], "nonfinite=ignore: stop or skip"),
    "a model that does not fit": (["model=resnet50", "dataset=noise"], "shape"),
    "a missing value": (["schedule=step"], "schedule.milestones"),
    "a bad schedule": (["schedule=cosine"], "schedule.length=None"),
    "too many backups": (["topology=backup", "topology.backups=2"], "topology.backups=2: 0 to workers - 1 = 1"),
    "a resumed run in another folder": (["resume={tmp}/run"], "in its own folder, not in {tmp}; leave out"),
    "threads in several roles": (["engine=threads", "role=ps"], "use engine=rpc"),
    "an lr that is none": (["optimizer.lr=fast"], "optimizer.lr=fast: a number"),
    "a negative lr": (["optimizer.lr=-1"], "Invalid learning rate: -1"),
    "an argument that the optimizer does not have": (["+optimizer.speed=2"], "speed"),
    "no data behind a batch": (["dataset.batch_size=0"], "dataset.batch_size=0"),
    "a huge variation": (["timing=cvb_homogeneous", "timing.compute.variation=1e200"], "variation=1e+200: from 1e-09"),
    "a tiny variation": (["timing=cvb_homogeneous", "timing.compute.variation=1e-200"], "compute.variation=1e-200: "),
    "a huge deviation": (["timing=lognormal", "timing.compute.sigma=1e200"], "timing.compute.sigma=1e+200: from 0 to"),
    "a delay in a delay": (["timing=straggler", "timing.compute.delay.mean=-1"], "timing.compute.delay.mean=-1: "),
    "seconds for too few": (["timing.compute=[1,2]", "workers=3"], "timing.compute=[1, 2]: one for each worker; "),
    "a latency below 0": (["timing.uplink=-1"], "timing.uplink=-1: a number"),
    "too many of the fastest": (["topology=k_async", "topology.count=5"], "topology.count=5: 1 to workers = 2"),
    "a star beyond loopback without keys": (["engine=zmq", "engine.host=192.0.2.1"], "python -m asgd.keys"),
    "keys that are not there": (["engine=zmq", "engine.keys={tmp}/none"], "python -m asgd.keys makes keys"),
    "a short lease": (["engine=zmq", "engine.lease=1"], "engine.lease=1: seconds, from 2 on"),
    "an evaluator of a star": (["engine=zmq", "role=evaluator"], "role=evaluator: engine=zmq evaluates in a process"),
    "nothing durable": (["engine=zmq", "engine.durability=update", "checkpoint.every=0"], "give checkpoint.every="),
    "durable and overlapping": (
        ["engine=zmq", "engine.durability=update", "worker.overlap=true"],
        "engine.durability=update does not fit worker.overlap=true",
    ),
    "any number of workers over rpc": (["workers=auto"], "is what engine=zmq (or ray) can do"),
    "a method of so many": (
        ["engine=zmq", "workers=auto", "topology=k_async"],
        "topology.rule.workers is their number",
    ),
    "shares of so many": (
        ["engine=zmq", "workers=auto", "dataset.partition=dirichlet", "dataset.alpha=1"],
        "workers=auto: shares that workers keep need their number",
    ),
    "no part at all": (["engine.shards=0"], "engine.shards=0: parts of the parameters, a whole number from 1 to"),
    "a way that is none": (["engine.payload=pigeon"], "engine.payload=pigeon: one of auto, shared, wire"),
    "no server": (["engine.servers=0"], "engine.servers=0: processes that have the parameters, a whole number from 1"),
    "a server too many": (["model=linear", "engine.servers=99"], "engine.servers=99: each needs at least 16 "),
    "a server without a part": (["role=ps", "rank=3", "engine.servers=2"], "rank=3: a server of engine.servers=2 "),
    "a codec on servers": (["codec=topk", "engine.servers=2"], "engine.servers=2: the codec TopK does not treat every"),
    "an optimizer on servers": (
        ["optimizer._target_=torch.optim.LBFGS", "engine.servers=2", *[f"~optimizer.{name}" for name in SGD]],
        "engine.servers=2: the optimizer LBFGS does not treat every parameter by itself",
    ),
    "no norm": (["guard.max_norm=0"], "guard.max_norm=0: a number above 0, or null for no limit"),
    "a norm that is none": (["guard.max_norm=true"], "guard.max_norm=True: a number above 0"),
    "an age in parts": (["guard.max_staleness=1.5"], "guard.max_staleness=1.5: versions, a whole number from 0 on"),
    "no age": (["guard.max_staleness=-1"], "guard.max_staleness=-1: versions, a whole number"),
    "a guard that is none": (["+guard.max_loss=1"], "max_loss"),
    "a norm on servers": (
        ["guard.max_norm=2", "engine.servers=2"],
        "engine.servers=2: guard.max_norm=2 is for the whole",
    ),
    "an age with overlap": (["guard.max_staleness=0", "worker.overlap=true"], "worker.overlap=true does not fit this"),
    "too few for Krum": (
        ["topology=krum"],
        "topology.byzantine=None: needs 2 byzantine + 3 workers in a step, at least 3;",
    ),
    "too many liars": (["topology=krum", "workers=6", "topology.byzantine=2"], "count = 6 has room for 1"),
    "too many of the nearest": (
        ["topology=krum", "workers=5", "topology.select=5"],
        "topology.select=5: payloads in the ",
    ),
    "Krum on servers": (["topology=krum", "workers=3", "engine.servers=2"], "engine.servers=2: the rule Krum does not"),
    "all trimmed": (
        ["topology=trimmed_mean", "workers=4", "topology.trim=2"],
        "topology.trim=2: a whole number, or a ",
    ),
    "none left of two": (
        ["topology=trimmed_mean"],
        "topology.trim=0.2: a whole number, or a share below 1, that taken",
    ),
    "a median of more than all": (
        ["topology=coordinate_median", "topology.count=3"],
        "topology.count=3: workers in a step",
    ),
    "less than no slack": (["topology=ssp", "topology.slack=-1"], "topology.slack=-1: whole rounds"),
}


TYPED = {name: MISTAKES.pop(name) for name in ("an unknown option", "an unknown group", "a missing value")}
TYPED |= {name: MISTAKES[name] for name in ("no workers", "a url that matches nothing")}
TYPED["nothing to resume"] = (["resume={tmp}/nothing"], "resume={tmp}/nothing: no checkpoint there")
TYPED["another folder"] = (["resume={tmp}/run", "hydra.run.dir={tmp}/new"], "in its own folder, not in {tmp}/new")


@pytest.mark.parametrize(
    "mistake", ["an unknown option", *(pytest.param(each, marks=pytest.mark.slow) for each in [*TYPED][1:])]
)
def test_a_mistake_on_the_command_line_is_named_and_leaves_nothing(start, mistake, tmp_path):
    options, message = TYPED[mistake]
    command = start(*[word.replace("{tmp}", str(tmp_path)) for word in options])
    output = command.wait()
    assert message.replace("{tmp}", str(tmp_path)) in output
    assert "Traceback" not in output
    assert command.code not in (0, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_anything_is_started(mistake, tmp_path, monkeypatch):
    options, message = MISTAKES[mistake]
    words = [word.replace("{tmp}", str(tmp_path)) for word in options]
    with initialize_config_dir(str(run.CONF), version_base="1.3"):
        config = compose("config", command_line.prepare(words))
    with pytest.raises(run.Failed, match=re.escape(message.replace("{tmp}", str(tmp_path)))):
        run.prepare(run.resolve(config), tmp_path, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("count=3: too many", "topology.count=3: too many"),  # the outermost, from which the rule has it
        ("mean=3: too much", "timing.compute.mean=3: too much"),
        ("count=4: too many", "count=4: too many"),  # of another value: not that option
        ("rate=1: too fast", "rate=1: too fast"),  # one of two
        ("workers=2: too few", "workers=2: too few"),
        ("mean: unknown", "mean: unknown"),
    ],
)
def test_a_message_names_the_option_as_it_is_typed_where_there_is_but_one(message, said):
    config = {"topology": {"rule": {"count": 3, "workers": 2}, "count": 3, "rate": 1}, "workers": 2}
    assert command_line.spelt(message, config | {"timing": {"compute": {"mean": 3}}, "model": {"rate": 1}}) == said


def test_patterns_need_no_quotes_for_hydra():
    words = ["dataset.url=/a/x-{00..07}.tar", "a.b={x: 1}", "c=${d}", 'e="{0..1}"', "-m", "lr=1,2"]
    assert command_line.prepare(words) == ["-m", 'dataset.url="/a/x-{00..07}.tar"', *words[1:4], "lr=1,2"]


def test_hydras_flags_come_before_the_options_of_a_run_that_goes_on(tmp_path):
    (tmp_path / "parameters.json").write_text('{"overrides": ["topology=mine", "workers=4"]}')
    resume, before = f"resume={tmp_path}", ["topology=mine"]
    for words in ([resume, "workers=2", "--config-dir", "own"], ["--config-dir", "own", resume, "workers=2"]):
        options = [*before, resume, "workers=2", "hydra.output_subdir=null"]
        assert command_line.prepare(words) == ["--config-dir", "own", *options]


def test_a_port_in_use_is_named_before_a_process_starts(start, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = start(f"engine.port={port}")
        output = command.wait()
    assert f"engine.port={port}: cannot listen there" in output and command.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_left_alone(start):
    first = start(*FAST, "engine=threads")
    assert first.wait() and first.code == 0
    before = {path: path.read_bytes() for path in (first.folder / "stats").rglob("*") if path.is_file()}
    second = start(*FAST, "engine=threads")
    assert "already holds a run" in second.wait() and second.code == 2
    assert before == {path: path.read_bytes() for path in (first.folder / "stats").rglob("*") if path.is_file()}
