"""The ways from the first of several servers to the others: each hears the same, numbered in one order."""

import itertools
import threading
from collections.abc import Callable
from functools import partial

from torch.futures import Future

from asgd.engines import rpc


class Line:
    """The way to another server. What is said before that is there is said when it has come."""

    def __init__(self, node: str):
        self.node, self.state, self.lock = node, "waiting", threading.Lock()
        self.kept: list[tuple[tuple, Future]] = []

    def say(self, *message) -> Future:
        with self.lock:
            if self.state == "waiting":
                self.kept.append((message, future := Future()))
                return future
        return self._call(message) if self.state == "open" else failed(rpc.Lost(f"{self.node} never came"))

    def open(self) -> None:
        with self.lock:
            self.state, kept, self.kept = "open", self.kept, []
            for message, future in kept:
                self._call(message).add_done_callback(partial(pass_on, future))

    def close(self) -> None:
        """Wait no longer."""
        with self.lock:
            if self.state == "waiting":
                self.state = "closed"
                for _, future in self.kept:
                    future.set_exception(rpc.Lost(f"{self.node} never came"))

    def _call(self, message: tuple) -> Future:
        try:
            return rpc.call_later(self.node, "follow", *message)
        except RuntimeError as error:  # the node is gone, and known to be
            return failed(rpc.Lost(str(error)))


def failed(error: Exception) -> Future:
    future = Future()
    future.set_exception(error)
    return future


def pass_on(future: Future, done: Future) -> None:
    try:
        future.set_result(rpc.value(done))
    except Exception as error:
        future.set_exception(error)


class Others:
    """The other servers. ``lost(rank, reason)`` is called in a thread of its own when one of them has failed."""

    def __init__(self, servers: int, lost: Callable[[int, str], None]):
        self.lines = {rank: Line(f"ps{rank}") for rank in range(2, servers + 1)}
        self.numbers, self.lost = itertools.count(), lost

    def say(self, now: float, method: str, *arguments) -> list[Future]:
        """Let all of them do something, after what has been said before; futures of the results."""
        number, coming = next(self.numbers), []
        for rank, line in self.lines.items():
            coming.append(line.say(number, now, method, *arguments))
            coming[-1].add_done_callback(partial(self._look, rank))
        return coming

    def _look(self, rank: int, done: Future) -> None:
        try:
            rpc.value(done)
        except Exception as error:
            if self.lines[rank].state == "closed":  # nobody waits for it
                return
            threading.Thread(target=self.lost, args=(rank, str(error)), daemon=True).start()

    def missing(self) -> list[str]:
        return [line.node for line in self.lines.values() if line.state == "waiting"]

    def close(self) -> None:
        for line in self.lines.values():
            line.close()
