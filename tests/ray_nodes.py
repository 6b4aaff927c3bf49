"""A Ray cluster on this machine: a head and more nodes, each with a raylet of its own that can be killed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import ROOT, free_port

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}


class Cluster:
    """Nodes as ``ray start`` makes them, with one CPU each; ``address`` is what drivers are given."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        head = "--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={folder}"
        self.raylets = [self._start(*head)]
        [self.ip] = [word.split("=")[1] for word in self.raylets[0].cmdline() if word.startswith("--node_ip_address=")]
        self.address = f"{self.ip}:{self.port}"

    def add(self) -> psutil.Process:
        """The raylet of one more node."""
        self.raylets.append(self._start(f"--address={self.address}"))
        return self.raylets[-1]

    def _start(self, *options: str) -> psutil.Process:
        before = self.running()
        words = [Path(sys.executable).parent / "ray", "start", "--num-cpus=1", *options]
        environment = os.environ | ENVIRONMENT | {"TMPDIR": str(self.folder)}  # for what actors make there
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stdout + done.stderr
        [made] = set(self.running()) - set(before)
        return made

    def running(self) -> list[psutil.Process]:
        """The raylets that live."""
        return [each for each in self._processes() if each.name() == "raylet"]

    def _processes(self) -> list[psutil.Process]:
        """What Ray has started: their command lines name the folder, or the head's port."""
        found = [(each, " ".join(each.info["cmdline"] or ())) for each in psutil.process_iter(["cmdline"])]
        return [each for each, words in found if str(self.folder) in words or f":{self.port} " in words]

    def left(self) -> list[Path]:
        """What actors have made in temporary folders."""
        return list(self.folder.glob("asgd-*"))

    def stop(self) -> None:
        while found := self._processes():
            for process in [child for each in found for child in children(each)] + found:
                process.kill()
            psutil.wait_procs(found, timeout=5)


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@contextmanager
def cluster(nodes: int) -> Iterator[Cluster]:
    """A head and more nodes; they are all gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets are in there, so its name has to be short
    made = None
    try:
        made = Cluster(folder)
        for _ in range(nodes - 1):
            made.add()
        yield made
    finally:
        if made:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)
