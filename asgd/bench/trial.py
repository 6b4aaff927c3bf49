"""One trial of one way: its processes, a common start and end, and what each of them has used in between."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

import psutil
import torch

from asgd.bench.work import Load, Step
from asgd.engines import processes, rendezvous, rpc

HOST = "127.0.0.1"
WARM = 3  # steps before the start, in which memory is touched for the first time
PATIENCE = 120.0  # seconds beyond those of the measurement


class Sample(NamedTuple):
    """What a trial found: gradients taken in per second, and CPU seconds of all processes for each."""

    steps_s: float
    cpu_s: float


class Meter:
    """A process's place in the trial. ``load``, its ``rank`` (0: the server) and the ``port`` of the trial's store."""

    def __init__(self, load: Load, rank: int, port: int, barrier, report: Connection):
        self.load, self.rank, self.port, self.barrier, self.report = load, rank, port, barrier, report
        self.used = time.process_time  # CPU seconds so far

    def run(self, step: Step) -> int:
        """A worker's exchanges, until the time is up; how many there were, with those before the start."""
        for _ in range(WARM):
            step(False)
        used, begun, count = self._started(), time.monotonic(), 0
        done = False
        while not done:
            done = step(time.monotonic() - begun >= self.load.seconds)
            count += 1
        rate = count / (time.monotonic() - begun)
        self._ended(used, count, rate)
        return WARM + count

    def idle(self) -> None:
        """A server's main thread, while others do the work."""
        self._ended(self._started(), 0, 0.0)

    def _started(self) -> float:
        self.barrier.wait()
        return self.used()

    def _ended(self, used: float, count: int, rate: float) -> None:
        self.barrier.wait()
        self.report.send((count, rate, self.used() - used))


Main = Callable[[Meter], None]


def run(server: Main | None, worker: Main, load: Load, others: tuple[Main, ...] = ()) -> Sample:
    """A trial. RuntimeError when a process fails, or does not end in time; none of them stays.

    The ``others`` are servers whose ranks come after the workers'.
    """
    context = multiprocessing.get_context("spawn")
    listener = rendezvous.listen(HOST, 0)
    port = listener.getsockname()[1]
    store = rpc.open_store(HOST, port, listener)  # lives as long as the trial
    works = [*([] if server is None else [server]), *[worker] * load.workers, *others]
    barrier, nodes = context.Barrier(len(works)), []
    try:
        for rank, work in enumerate(works, start=server is None):
            nodes.append(Node(context, work, load, rank, port, barrier))
        counts, rates, used = zip(*collect(nodes, load.seconds + PATIENCE), strict=True)
    finally:
        for node in nodes:
            node.stop()
        del store
    return Sample(sum(rates), sum(used) / sum(counts))


class Node:
    """A process and the pipe on which it reports: what it has measured, and then None, or why it failed."""

    def __init__(self, context, work, load: Load, rank: int, port: int, barrier):
        self.results, report = context.Pipe(duplex=False)
        arguments = (work, load, rank, port, barrier, report)
        self.process = context.Process(target=child, args=arguments, name=f"bench{rank}", daemon=True)
        self.process.start()
        report.close()

    def stop(self) -> None:
        """It and what it has started."""
        below = psutil.Process(self.process.pid).children(recursive=True) if self.process.is_alive() else []
        self.process.kill()
        for each in below:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.join()
        self.results.close()


def collect(nodes: list[Node], seconds: float) -> list[tuple[int, float, float]]:
    """What the processes have measured, once all are done."""
    deadline, measured, open_ends = time.monotonic() + seconds, [], {node.results for node in nodes}
    while open_ends:
        ready = wait(open_ends, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"{len(open_ends)} processes did not end within {seconds:g} s")
        for end in ready:
            said = hear(end)
            if said is None:
                open_ends.discard(end)
            else:
                measured.append(said)
    return measured


def hear(end: Connection) -> tuple[int, float, float] | None:
    try:
        said = end.recv()
    except EOFError:
        raise RuntimeError("a process of the trial died without a word; was it killed?") from None
    if isinstance(said, str):
        raise RuntimeError(f"a process of the trial failed:\n{said}")
    return said


def child(work: Callable[[Meter], None], load: Load, rank: int, port: int, barrier, report: Connection) -> None:
    """The main function of every process of a trial; it waits to be killed, so that none leaves while others talk."""
    processes.tie_to_parent()
    torch.set_num_threads(load.threads)
    interface = rendezvous.interface_to(HOST)
    os.environ |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                   "GLOO_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}  # fmt: skip
    try:
        work(Meter(load, rank, port, barrier, report))
        report.send(None)
    except Exception:
        report.send(traceback.format_exc())
    wait([multiprocessing.parent_process().sentinel])
