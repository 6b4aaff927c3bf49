"""The files of docs for Kubernetes and Slurm: valid by their schemas, consistent, and what they type is run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from asgd import keys, results
from tests.conftest import ROOT, free_port
from tests.runs import pushes
from tests.test_star import STAR, every_round_once

KUBERNETES, SLURM = ROOT / "docs/kubernetes", ROOT / "docs/slurm.sbatch"
MANIFESTS = [each for path in sorted(KUBERNETES.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
SMALL = [*STAR[1:], "checkpoint.every=20", "budget.epochs=null"]


def manifest(kind: str) -> dict:
    [found] = [each for each in MANIFESTS if each["kind"] == kind]
    return found


def pod(kind: str) -> dict:
    return manifest(kind)["spec"]["template"]["spec"]


def container(kind: str) -> dict:
    [found] = pod(kind)["containers"]
    return found


# Kubernetes


@pytest.mark.parametrize("each", MANIFESTS, ids=lambda each: each["kind"])
def test_a_manifest_is_valid(each):
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(each, validator.latest_version(), strict=True)
    with pytest.raises(validator.ValidationError):
        validator.validate(each | {"spek": {}}, validator.latest_version(), strict=True)


def test_what_manifests_name_is_there():
    service, options = manifest("Service"), manifest("ConfigMap")
    labels = manifest("Job")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels and "clusterIP" not in service["spec"]
    [port], [opened] = service["spec"]["ports"], container("Job")["ports"]
    assert port["targetPort"] == opened["name"] and port["port"] == opened["containerPort"]
    assert options["data"]["PORT"] == str(port["port"])
    assert service["metadata"]["name"] == environment("Deployment")["HOST"]
    claim = next(each["persistentVolumeClaim"] for each in pod("Job")["volumes"] if each["name"] == "run")
    assert claim["claimName"] == manifest("PersistentVolumeClaim")["metadata"]["name"]
    for kind in ("Job", "Deployment"):
        assert container(kind)["envFrom"] == [{"configMapRef": {"name": options["metadata"]["name"]}}]
        mounts = {each["name"]: each["mountPath"] for each in container(kind)["volumeMounts"]}
        assert mounts["keys"] == environment(kind)["KEYS"]
    selector = manifest("Deployment")["spec"]["selector"]["matchLabels"]
    assert selector == manifest("Deployment")["spec"]["template"]["metadata"]["labels"] != labels


def environment(kind: str) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(kind)["env"]}


def mounted(kind: str, made: Path, folder: Path) -> Path:
    """The folder of keys as the pod sees it; in the secret each file has its own name."""
    secret = next(each["secret"] for each in pod(kind)["volumes"] if each["name"] == "keys")
    files = {path.name: path for path in made.rglob("*key*") if path.is_file()}
    for item in secret["items"]:
        (folder / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[item["key"]], folder / item["path"])
    return folder


def test_each_pod_has_its_own_keys_and_no_others(tmp_path):
    keys.make(made := tmp_path / "made")
    of_server, of_worker = (mounted(kind, made, tmp_path / kind) for kind in ("Job", "Deployment"))
    assert keys.ring(of_server, keys.SERVER) == keys.ring(made, keys.SERVER)._replace(clients=of_server / "clients")
    assert keys.ring(of_worker, keys.WORKER) == keys.ring(made, keys.WORKER)
    for folder, other in ((of_server, keys.WORKER), (of_worker, keys.SERVER)):
        with pytest.raises(ValueError, match="cannot be read"):
            keys.ring(folder, other)


class Shell:
    """A command of a shell, in a process group of its own."""

    def __init__(self, words: list, log: Path, **variables: str):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        environment = clean | {"PATH": path, "PYTHONPATH": str(ROOT)} | variables
        self.log = log
        with open(log, "w") as file:
            self.process = subprocess.Popen(words, env=environment, stdout=file, stderr=file, start_new_session=True)

    def wait(self, seconds: float = 90) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def shell(tmp_path):
    """``shell(words, VARIABLE=value, ...)`` starts a command; what is left at the end of the test is killed."""
    made = []

    def launch(words: list, **variables: str) -> Shell:
        made.append(Shell(words, tmp_path / f"{len(made)}.log", **variables))
        return made[-1]

    yield launch
    for each in made:
        each.kill()


def pushed(folder: Path) -> int:
    path = folder / "stats/ps/updates.csv"
    return path.read_text().count(",push,") if path.exists() else 0


def until(condition, commands: list[Shell], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert not [each for each in commands if each.process.poll()], [each.log.read_text() for each in commands]
        assert time.monotonic() < deadline, [each.log.read_text() for each in commands]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_pod_of_the_server_that_is_made_again_goes_on(tmp_path, shell):
    keys.make(made := tmp_path / "made")
    run = tmp_path / "run"
    port, options = str(free_port()), " ".join([*SMALL, "workers=auto", "budget.seconds=100"])

    def starts(kind: str, folder: Path) -> Shell:
        found = mounted(kind, made, tmp_path / kind)
        words = [*container(kind)["command"], *container(kind)["args"]]
        return shell(words, RUN=str(folder), KEYS=str(found), HOST="127.0.0.1", PORT=port, OPTIONS=options)

    server, worker = starts("Job", run), starts("Deployment", tmp_path / "worker")
    until(lambda: pushed(run) > 50, [server, worker])
    server.kill()
    second = starts("Job", run)
    until(lambda: int((run / "stats/ps/.lives").read_text()) == 2, [second, worker])
    before = pushed(run)
    until(lambda: pushed(run) > before + 30, [second, worker])
    worker.process.terminate()  # as the kubelet does to a pod that is taken out
    assert worker.wait() == 130
    second.process.terminate()
    assert second.wait() == 130
    every_round_once(run)
    assert results.summary(run)["rolled_back"] > 0 and results.summary(run)["failed_workers"] == 0


# Slurm


def test_the_batch_script_is_one():
    subprocess.run(["bash", "-n", SLURM], check=True)
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, SLURM], check=True)


SRUN = """#!/bin/sh
echo "$@" >> "$CALLS"
while [ "$1" != python ]; do shift; done
exec "$@"
"""


@pytest.mark.slow
def test_a_job_of_slurm_that_is_requeued_goes_on(tmp_path, shell):
    srun = tmp_path / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    run, calls = tmp_path / "run", tmp_path / "calls"
    path = f"{srun.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "3", "PORT": str(free_port()), "HOST": "127.0.0.1", "PATH": path}
    words = [SLURM, *SMALL, "budget.updates=1000"]
    first = shell(words, RUN=str(run), CALLS=str(calls), **slurm)
    until(lambda: pushed(run) > 50, [first])
    first.kill()  # with all its steps
    second = shell(words, RUN=str(run), CALLS=str(calls), SLURM_RESTART_COUNT="1", **slurm)
    assert second.wait() == 0, second.log.read_text()
    placed = [line.split()[2] for line in calls.read_text().splitlines()]
    assert sorted(placed) == sorted(2 * ["--relative=0", "--relative=1", "--relative=2"])
    assert int((run / "stats/ps/.lives").read_text()) == 2
    rounds = every_round_once(run)
    assert set(rounds) == {1, 2} and results.summary(run)["updates"] == 1000
    assert len(pushes(run)) == sum(rounds.values())
