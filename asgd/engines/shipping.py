"""A node's files on their way to the server's folder, while they grow."""

import threading
from pathlib import Path

from asgd.engines import rpc
from asgd.records import METRICS, SYSTEM

TABLES = {"training_metrics.csv": METRICS, "system_stats.csv": SYSTEM}
FILES = (*TABLES, "parameters.json", "worker.log")


class Shipper:
    """A thread that sends what the files of ``folder`` have gained, each ``PERIOD`` seconds and at the end."""

    PERIOD = 1.5

    def __init__(self, folder: Path):
        self.folder, self.sent = folder, dict.fromkeys(FILES, 0)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.ended.wait(self.PERIOD):
                self._ship()
        except Exception:
            return  # what is missing is sent at the end, or said there

    def _ship(self) -> None:
        for name in FILES:
            path = self.folder / name
            if path.exists() and path.stat().st_size > self.sent[name]:
                with open(path, "rb") as file:
                    file.seek(self.sent[name])
                    data = file.read()
                rpc.result(rpc.call("ps", "ship", self.folder.name, name, data))
                self.sent[name] += len(data)

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        self._ship()


class Inbox:
    """Appends what nodes send to ``stats/<node>/`` of ``folder``. A table that is there keeps its one header."""

    def __init__(self, folder: Path):
        self.folder, self.known = folder / "stats", set()

    def receive(self, node: str, name: str, data: bytes) -> None:
        if name not in FILES or not node.isalnum():
            raise ValueError(f"{node}/{name} is not a file of a node")
        path = self.folder / node / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = (",".join(TABLES.get(name, ())) + "\n").encode()
        continued = path not in self.known and path.exists() and name in TABLES
        self.known.add(path)
        with open(path, "wb" if name == "parameters.json" else "ab") as file:
            file.write(data.removeprefix(header) if continued else data)
