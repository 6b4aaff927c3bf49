"""Many workers' sessions in one process, which push the same payload as fast as they can."""

import secrets
import threading
from contextlib import contextmanager, suppress

import torch

from asgd.engines.star.caller import Caller
from asgd.engines.star.contents import Goodbye
from asgd.engines.star.exchange import Line, StarExchange
from asgd.messages import Update

PATIENCE = 120.0  # seconds


def endless(workers: int, size: int, *options: str) -> tuple[str, ...]:
    """Options of a server on ``size`` numbers in float32 that ends with its command only."""
    return (
        "engine=zmq", "engine.payload=wire", f"workers={workers}", "model=quadratic", "model.start=0", "model.b=0",
        "model.eigenvalues=0", "model.dtype=float32", "dataset=noise", f"dataset.shape=[{size}]", "threads=1",
        "budget.epochs=null", "budget.updates=1000000000", "evaluate.every=0", "checkpoint.every=0", *options,
    )  # fmt: skip


class Sessions:
    """``pushed[i]``: how many updates of the i-th have been answered. ``ends()`` waits until all have said goodbye."""

    def __init__(self, port: int, count: int, size: int):
        self.address, self.ended = f"tcp://127.0.0.1:{port}", threading.Event()
        self.payload = torch.full((size,), 1e-9)
        self.pushed = [0] * count
        self.threads = [threading.Thread(target=self._live, args=(each,), daemon=True) for each in range(count)]
        for thread in self.threads:
            thread.start()

    def _live(self, number: int) -> None:
        caller = Caller(self.address, PATIENCE, threading.Event())
        with suppress(ConnectionError):
            self._push(Line(caller), number)
        caller.close()

    def _push(self, line: Line, number: int) -> None:
        rank, session, round = number + 1, secrets.randbits(62), 0
        line.hello(rank, PATIENCE)
        exchange = StarExchange(line, rank, "wire", 1)
        reply = exchange.join(rank, session)
        while reply.model and not self.ended.is_set():
            version, _, buffers = reply.model
            reply = exchange.push(
                Update(rank, session, round, version, self.payload, buffers, loss=0.0, correct=None, samples=1)
            )
            round = self.pushed[number] = round + 1
        line.call(Goodbye(0))

    def ends(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


@contextmanager
def sessions(port: int, count: int, size: int):
    running = Sessions(port, count, size)
    try:
        yield running
    finally:
        running.ends()
