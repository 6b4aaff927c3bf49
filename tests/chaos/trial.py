"""A trial: a real run with the faults of its plan, seen from the outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos import ledger
from tests.chaos.faults import SERVER, WORKERS, Fault, Plan
from tests.chaos.network import Messages, Streams
from tests.conftest import ROOT, free_port

PATIENCE = 240.0  # seconds until a trial that does not go on has failed


class Stuck(AssertionError):
    """A trial that has not come to its end."""


class Trial:
    """``folder`` gets the plan, the traces of its faults, and in ``run`` what a run writes."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan, self.folder, self.run = plan, folder, folder / "run"
        folder.mkdir(parents=True)
        plan.write(folder / "plan.json")
        self.nodes: dict[int, subprocess.Popen] = {}  # by hand one each, else one command
        self.lives = 0
        self.proxy = None
        self.due: list[tuple[float, Callable[[], None]]] = []  # when which fault is over
        self.struck: set[int] = set()
        self.goal: dict[int, int] | None = None  # of rounds, from the last fault on

    def hold(self) -> dict[int, int]:
        """The rounds of each worker, at the end. Wrong or Stuck."""
        deadline = time.monotonic() + PATIENCE
        try:
            self.start()
            while not self.over():
                if time.monotonic() > deadline:
                    raise Stuck(f"{self.waits_for()}\n{self.told()}")
                self.look()
                time.sleep(0.02)
            self.end()
            return ledger.check(self.folder, self.plan)
        except ledger.Wrong as wrong:
            raise ledger.Wrong(f"{wrong}\n{self.told()}") from None
        finally:
            self.close()

    # The run

    def start(self) -> None:
        if self.plan.way == "all":
            self.launch(SERVER, f"hydra.run.dir={self.run}")
            return
        self.port = free_port()
        kind = {"streams": lambda: Streams(self.port), "messages": lambda: Messages(self.port, self.plan.seed)}
        self.proxy = kind[self.plan.way]()
        self.launch_server(f"hydra.run.dir={self.run}")
        for rank in range(1, WORKERS + 1):
            self.launch_worker(rank)

    def launch_server(self, where: str) -> None:
        self.launch(SERVER, "role=ps", f"engine.port={self.port}", where)

    def launch_worker(self, rank: int) -> None:
        self.lives += 1
        where = f"hydra.run.dir={self.folder / f'worker{rank}-{self.lives}'}"
        self.launch(rank, "role=worker", f"rank={rank}", f"engine.port={self.proxy.port}", where)

    def launch(self, who: int, *options: str) -> None:
        with open(self.folder / "output.txt", "a") as output:
            self.nodes[who] = subprocess.Popen(
                [sys.executable, "-m", "asgd.run", *self.plan.options(), *options],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "ASGD_TRIAL": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    # The faults, as far as the nodes do not do them

    def look(self) -> None:
        for fault in self.plan.faults:
            if fault.number not in self.struck and (self.folder / f"struck-{fault.number}").exists():
                self.struck.add(fault.number)
                self.act(fault)
        for now in [each for each in self.due if each[0] <= time.monotonic()]:
            self.due.remove(now)
            now[1]()
        for who, node in list(self.nodes.items()):
            if node.poll() is not None:
                self.died(who, node.returncode)

    def act(self, fault: Fault) -> None:
        if fault.action == "stop":
            self.later(fault, lambda: self.go_on(fault))
        elif fault.action == "cut":
            self.proxy.cut()
        elif fault.action == "hole":
            self.proxy.hold()
            self.later(fault, self.proxy.let_go)
        elif fault.action == "lag":
            self.proxy.lag = fault.seconds / 10
            self.later(fault, self.proxy.let_go)

    def later(self, fault: Fault, action: Callable[[], None]) -> None:
        self.due.append((time.monotonic() + fault.seconds, action))

    def go_on(self, fault: Fault) -> None:
        with suppress(OSError, psutil.Error):
            stopped = psutil.Process(int((self.folder / f"stopped-{fault.number}").read_text()))
            if stopped.environ().get("ASGD_TRIAL") == str(self.folder):
                stopped.send_signal(signal.SIGCONT)

    def died(self, who: int, code: int) -> None:
        """By hand, who was killed is started again; nothing else may end a node."""
        if self.plan.way == "all" or code != -signal.SIGKILL:
            raise Stuck(f"node {who} ended with status {code}\n{self.told()}")
        if who == SERVER:
            self.launch_server(f"resume={self.run}")
        else:
            self.launch_worker(who)

    # Its end

    def over(self) -> bool:
        """All faults are past, and each worker has gone on after them."""
        if len(self.struck) < len(self.plan.faults) or self.due:
            return False
        rounds = self.rounds()
        self.goal = self.goal or {rank: rounds[rank] + self.plan.beyond for rank in rounds}
        return all(rounds[rank] >= self.goal[rank] for rank in self.goal)

    def rounds(self) -> dict[int, int]:
        """How many pushes of each worker are on record."""
        path, found = self.run / "stats/ps/updates.csv", dict.fromkeys(range(1, WORKERS + 1), 0)
        for row in path.read_text().splitlines() if path.exists() else ():
            values = row.split(",")
            if len(values) > 2 and values[1] == "push":
                found[int(values[2])] += 1
        return found

    def end(self) -> None:
        self.nodes[SERVER].send_signal(signal.SIGINT)
        for who, node in self.nodes.items():
            code = node.wait(60)
            if code != (130 if who == SERVER else 0):
                raise Stuck(f"node {who} ended with status {code}\n{self.told()}")
        if left := self.left():
            raise Stuck(f"processes are left: {left}")
        summary = json.loads((self.run / "summary.json").read_text())
        ledger.demand(f"it ended as interrupted, not {summary['ended']}", summary["ended"] == "interrupted")

    def processes(self) -> list[psutil.Process]:
        """All that belong to this trial, whoever has started them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("ASGD_TRIAL") == str(self.folder):
                    found.append(process)
        return found

    def left(self) -> list[psutil.Process]:
        """Those that do not go; how soon they should is for other tests (tests/test_star_ends.py)."""
        deadline = time.monotonic() + 20
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def close(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        for node in self.nodes.values():
            node.wait()
        if self.proxy:
            self.proxy.close()

    # What is told of one that failed

    def waits_for(self) -> str:
        struck = [fault for fault in self.plan.faults if fault.number not in self.struck]
        return f"faults that have not struck: {struck}; rounds {self.rounds()}, to be {self.goal}"

    def told(self) -> str:
        output = (self.folder / "output.txt").read_text() if (self.folder / "output.txt").exists() else ""
        return f"{self.plan}\n{output[-4000:]}"
