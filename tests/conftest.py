"""Runs as a person starts them, and a watch on what they leave behind."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells have it for what they start in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no process of the tests would hear Ctrl-C

FAST = ["budget.epochs=null", "budget.updates=60", "evaluate.every=30"]


@pytest.fixture(autouse=True, scope="session")
def settled_garbage():
    """Each run in this process looks for garbage; what was imported before need not be looked through each time."""
    import torch._dynamo  # noqa: F401, which the first optimizer imports

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaked_process():
    """A test that leaves a process behind fails."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    left = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
    helpers = ("forkserver", "resource_tracker")  # of multiprocessing; they end with this process
    left = [each for each in left if not any(word in " ".join(each.cmdline()) for word in helpers)]
    _, alive = psutil.wait_procs(left, timeout=5)
    for process in alive:
        process.kill()
    assert not alive, f"left behind: {alive}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two
        return False


class Command:
    """``python -m asgd.run ...`` in a folder of its own; ``folder`` is the run folder."""

    def __init__(self, folder: Path, *options: str, env: dict | None = None, cwd: Path = ROOT, prefix: tuple = ()):
        self.folder = folder
        place = () if any(word.startswith(("resume=", "-m")) for word in options) else (f"hydra.run.dir={folder}",)
        clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "asgd.run", *options, *place],
            cwd=cwd,
            env=clean | {"PYTHONPATH": str(ROOT)} | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.tree: list[psutil.Process] = []

    def wait(self, seconds: float = 90) -> str:
        """What it printed, once it has ended."""
        self.output, _ = self.process.communicate(timeout=seconds)
        self.code = self.process.returncode
        return self.output

    def until(self, condition, seconds: float = 60):
        """Wait for a state of the run folder or of the processes; fails if it does not come."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert self.process.poll() is None, f"ended early: {self.process.communicate()[0]}"
            assert time.monotonic() < deadline, "it did not come to this"
            time.sleep(0.05)
        return value

    def processes(self) -> list[psutil.Process]:
        """Every process of the run that is there now; remembered for ``gone``."""
        self.tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return self.tree

    def node(self, name: str) -> psutil.Process:
        """The process of one node, which its parameters.json names."""
        return psutil.Process(json.loads((self.folder / "stats" / name / "parameters.json").read_text())["pid"])

    def gone(self, seconds: float = 5) -> list[psutil.Process]:
        """Those of the remembered processes that are still alive after ``seconds``."""
        deadline = time.monotonic() + seconds
        while (alive := [each for each in self.tree if is_alive(each)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive

    def rows(self, table: str) -> list[str]:
        path = self.folder / "stats" / table
        return path.read_text().splitlines()[1:] if path.exists() else []


@pytest.fixture(scope="session")
def swept(tmp_path_factory) -> Path:
    """A folder with a small sweep in ``outputs/sweeps``, made once for all test processes; not to be changed."""
    from tests.sweeps import sweep

    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "swept"
    with FileLock(f"{place}.lock"):
        if not (place / "made").exists():
            sweep(place / "outputs/sweeps/one")
            (place / "made").touch()
    return place


@pytest.fixture(scope="module")
def server():
    """An object store on loopback, with nothing in it."""
    from tests.emulator import emulator  # which needs what is above

    with emulator() as running:
        yield running


@pytest.fixture
def proxy(server):
    """The way to the store, on which faults can be scripted."""
    from tests.flaky import flaky

    with flaky(server.port) as running:
        yield running


@pytest.fixture
def start(tmp_path):
    """``start("option=value", ...)`` starts a command; all that are left at the end of the test are killed."""
    commands = []

    def launch(*options: str, name: str = "run", **keywords) -> Command:
        commands.append(Command(tmp_path / name, *options, **keywords))
        return commands[-1]

    yield launch
    for command in commands:
        if command.process.poll() is None:
            for process in command.processes():
                process.kill()
        command.process.stdout.close()
        command.process.wait()
