"""``engine=ray``: three nodes of Ray on this machine; actors and a node are killed, and the run goes on."""

import signal
from collections.abc import Iterator

import psutil
import pytest

from asgd import results
from asgd.engines.star import ray_engine
from tests.ray_nodes import ENVIRONMENT, Cluster, cluster
from tests.runs import replayed
from tests.scripted import a_job
from tests.test_star import STAR, events, every_round_once

RAY = ["engine=ray", *STAR[1:], "checkpoint.every=20", "budget.epochs=null", "budget.seconds=250"]
SECONDS = 200  # at most, for Ray to start what a test waits for


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["engine.num_cpus=0"], "engine.num_cpus=0: of each worker, more than 0"),
        (["engine.num_gpus=-1"], "engine.num_gpus=-1: of each worker, 0 or more"),
        (["engine.placement=SPRED"], r"engine.placement=SPRED: one of SPREAD, .* \(did you mean SPREAD\?\)"),
        (["engine.address=ray://head:10001"], "engine.address=ray://head:10001: null, auto or host:port"),
        (["engine.lease=1"], "engine.lease=1: seconds, from 2 on"),
    ],
)
def test_a_wrong_option_is_refused(options, reason):
    with pytest.raises(Exception, match=reason):
        a_job("engine=ray", *options, limits=())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], r"engine=ray: Ray is not installed; pip install asgd\[ray\]"),
        (["role=ps"], "role=ps: with engine=ray one command starts all nodes"),
        (["engine.durability=update", "checkpoint.every=0"], "engine.durability=update: workers keep updates"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_started(monkeypatch, options, reason):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    job = a_job("engine=ray", *options, limits=())
    with pytest.raises(ValueError, match=reason):
        job.engine.reserve(job)


def test_the_server_steps_on_no_gpu():
    job = a_job("engine=ray", limits=())
    job.config["server"]["device"] = "cuda"  # which the machine of the command may have
    with pytest.raises(ValueError, match=r"server\.device=cuda: Ray gives the GPUs to workers"):
        job.engine.reserve(job)


@pytest.mark.parametrize("address", ["head", "127.0.0.1:1"])
def test_an_address_without_a_cluster_is_refused(monkeypatch, address):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: True)
    job = a_job("engine=ray", f"engine.address={address}", limits=())
    with pytest.raises(ValueError, match=f"engine.address={address}: no Ray cluster there"):
        job.engine.reserve(job)


def test_keys_of_a_run_leave_no_secret_in_a_file(tmp_path):
    pytest.importorskip("ray")
    from asgd.engines.star import cluster as on_ray

    rings = on_ray.new_keys(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["server.key", "worker.key"]
    assert not [path for path in files for ring in rings.values() if ring.secret in path.read_bytes()]
    assert rings["worker"].server == rings["server"].public and rings["server"].clients == tmp_path / "clients"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with cluster(3) as made:
        yield made


@pytest.fixture
def on(nodes, start):
    """``on("option=value", ...)`` starts a run on the cluster."""
    return lambda *options: start(*RAY, f"engine.address={nodes.address}", *options, env=ENVIRONMENT)


def interrupted(run) -> str:
    """What it printed, when Ctrl-C has ended it."""
    run.processes()
    run.process.send_signal(signal.SIGINT)
    output = run.wait()
    assert run.code == 130 and run.gone() == [], output
    assert results.summary(run.folder)["ended"] == "interrupted"
    return output


def rows_of(run, worker: int) -> int:
    return len(run.rows(f"worker{worker}/training_metrics.csv"))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_that_is_killed_comes_back(nodes, on, tmp_path):
    killed = "topology.worker._target_=tests.broken.KilledOnce", "+topology.worker.fails={2: 40}"
    when = f"+topology.worker.marker={tmp_path}/killed", "+topology.worker.seed_of_death=0"
    run = on("workers=2", "topology=sync", *killed, *when)
    run.until(lambda: rows_of(run, 2) > 60, SECONDS)
    output = interrupted(run)
    assert nodes.left() == []
    assert "worker 2 is gone: its process was lost: its worker process has died" in output
    rounds = every_round_once(run.folder)
    (joined, first), (left, at), (again, second), *_ = events(run.folder, 2)
    assert (joined, first, left, at, again, second) == ("join", 0, "leave", 40, "join", 40)
    assert results.summary(run.folder)["failed_workers"] == 1
    for (
        worker,
        count,
    ) in rounds.items():  # also of other nodes; the last answer may be lost
        assert rows_of(run, worker) in (count, count - 1)
    assert replayed(run.folder, tmp_path / "replay")["equal"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_is_killed_goes_on(on):
    run = on("workers=2", "engine.durability=update", "budget.updates=300")
    run.until(lambda: len(run.rows("ps/updates.csv")) > 110, SECONDS)
    run.node("ps").kill()
    output = run.wait()
    assert run.code == 0, output
    assert "it goes on from its last checkpoint" in output
    assert sum(every_round_once(run.folder).values()) >= 300
    summary = results.summary(run.folder)
    assert summary["ended"] == "budget" and summary["updates"] == 300 and summary["failed_workers"] == 0


def raylet_of(node: psutil.Process) -> psutil.Process:
    return next(each for each in node.parents() if each.name() == "raylet")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_of_the_cluster_dies_and_its_worker_goes_on_elsewhere(nodes, on):
    nodes.add()  # one more than there are workers
    run = on("workers=3", "engine.placement=STRICT_SPREAD", "topology=ssp")
    run.until(lambda: all(rows_of(run, worker) > 30 for worker in (1, 2, 3)), SECONDS)
    home, places = raylet_of(run.node("ps")), {each: raylet_of(run.node(f"worker{each}")) for each in (1, 2, 3)}
    assert len(set(places.values())) == 3
    victim = next(worker for worker, raylet in places.items() if raylet != home)
    places[victim].kill()
    run.until(lambda: events_so_far(run, victim)[2:] and rows_of(run, victim) > 30, SECONDS)
    rounds = rows_of(run, victim)
    run.until(lambda: rows_of(run, victim) > rounds)
    assert f"worker {victim} is gone" in interrupted(run)
    every_round_once(run.folder)
    (_, begin), (left, at), (again, second), *_ = events(run.folder, victim)
    assert (begin, left, again) == (0, "leave", "join") and second == at > 30


def events_so_far(run, worker: int) -> list[str]:
    """The rows of its comings and goings."""
    of_worker = f",join,{worker},", f",leave,{worker},"
    return [row for row in run.rows("ps/updates.csv") if any(each in row for each in of_worker)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_who_has_no_key_is_not_let_in(nodes, on, start):
    if nodes.ip == "127.0.0.1":
        pytest.skip("this machine has no address beyond loopback")
    run = on("workers=2")
    run.until(lambda: all(rows_of(run, worker) for worker in (1, 2)), SECONDS)
    server = run.node("ps")
    [port] = {port for port in listening(server) if port in peers(run.node("worker1"))}
    options = [*STAR, "workers=3", f"engine.host={nodes.ip}", f"engine.port={port}", "engine.join_timeout=10"]
    stranger = start("role=worker", "rank=3", *options, "engine.trusted_network=true", name="stranger")
    stranger.wait()
    assert stranger.code == 1
    interrupted(run)
    assert "somebody at the server's port" in (run.folder / "run.log").read_text()
    assert events(run.folder, 3) == []


def listening(process: psutil.Process) -> list[int]:
    return [each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]


def peers(process: psutil.Process) -> list[int]:
    return [each.raddr.port for each in process.net_connections("tcp") if each.raddr]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_after_ctrl_c_no_actor_is_left(nodes, on):
    run = on("workers=2")
    run.until(lambda: all(rows_of(run, worker) for worker in (1, 2)), SECONDS)
    actors, raylets = [run.node(name) for name in ("ps", "worker1", "worker2")], nodes.running()
    interrupted(run)
    _, alive = psutil.wait_procs(actors, timeout=5)
    assert alive == [] and nodes.running() == raylets and nodes.left() == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_of_the_runs_own_ends_with_it(start):
    pytest.importorskip("ray")
    run = start(*RAY, "workers=2", env=ENVIRONMENT)
    run.until(lambda: len(run.rows("ps/updates.csv")) > 30, SECONDS)
    assert any(each.name() == "raylet" for each in run.processes())
    interrupted(run)
