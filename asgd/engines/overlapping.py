"""``worker.overlap=true`` on real engines: an exchange goes on while its worker computes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from asgd.messages import Reply, Update
from asgd.parameters import Blocks
from asgd.task import Task

PATIENCE = 5.0  # seconds for an answer that nobody needs any more


class Stopped(Exception):
    """The run is over; what the worker computes would come too late."""


class Overlapping:
    """``push`` sends an update and returns the answer to the one before, the first time that to ``join``.

    Where that answer is to stop, the update is not sent, and Stopped is raised.

    ``exchange``: an ``asgd.engines.base.Exchange``. One update is under way at most, in a thread.
    """

    def __init__(self, exchange):
        self.exchange, self.coming, self.blocks = exchange, begun(lambda: None), Blocks()

    def __enter__(self) -> "Overlapping":
        return self

    def __exit__(self, *error) -> None:
        wait([self.coming], PATIENCE)

    def attach(self, task: Task) -> None:
        """Gradients are made in memory that no update under way has."""
        self.exchange.attach(task)
        self.task = task
        self._make_room()

    def join(self, worker: int, session: int) -> Reply:
        reply = self.exchange.join(worker, session)
        self.coming = begun(lambda: reply)
        return reply

    def push(self, update: Update) -> Reply:
        reply = self.coming.result()
        if reply.model is None:
            raise Stopped
        self.coming = begun(self.exchange.push, update)
        self._make_room()
        return reply

    def _make_room(self) -> None:
        self.task.outbox = self.blocks.take(self.task.params) if self.task.params.device.type == "cpu" else None


def begun(action: Callable, *arguments) -> Future:
    """What ``action`` returns or raises in a thread of its own, which no end of the process waits for."""
    future = Future()

    def act() -> None:
        try:
            future.set_result(action(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=act, name="exchange", daemon=True).start()
    return future
