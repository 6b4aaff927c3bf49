"""The hub between a concurrent engine and the server: a lock, and a future for each exchange that waits."""

import threading
from collections import defaultdict
from collections.abc import Callable

from torch.futures import Future

from asgd.ledger import ProtocolError
from asgd.messages import Reply, Update
from asgd.server import Server


class Hub:
    """Serialises arrivals and delivers each reply to the exchange that waits for it.

    ``over`` is set once the run has ended; ``error`` is what ended it when the server itself failed.
    """

    def __init__(self, server: Server, clock: Callable[[], float]):
        self.server, self.clock = server, clock
        self.lock = threading.Lock()
        self.waiting: dict[int, list[Future]] = defaultdict(list)
        self.over = threading.Event()
        self.error: Exception | None = None

    def join(self, worker: int, session: int) -> Future:
        """A future of the first ``Reply``."""
        return self._exchange(worker, "join", worker, session)

    def push(self, update: Update) -> Future:
        """A future of the ``Reply`` to ``update``. Whether it is finite is found out while others are served."""
        return self._exchange(update.worker, "push", self.server.gate.looked_at(update))

    def leave(self, worker: int) -> None:
        self._arrive("leave", worker)

    def tick(self) -> None:
        self._arrive("tick")

    def end(self, reason: str) -> None:
        self._arrive("end", reason)

    def active(self) -> set[int]:
        """The workers that are there."""
        with self.lock:
            return set(self.server.ledger.active())

    def _exchange(self, worker: int, entrance: str, *content) -> Future:
        future = Future()
        self._arrive(entrance, *content, worker=worker, future=future)
        return future

    def _arrive(self, entrance: str, *content, worker: int | None = None, future: Future | None = None) -> None:
        """One arrival at an entrance of the server. The replies are delivered after the lock is free."""
        with self.lock:
            replies = self._call(worker, entrance, *content)
            if future:
                self.waiting[worker].append(future)
            due = [(reply, self.waiting.pop(reply.worker, [])) for reply in replies]
        for reply, futures in due:
            for waiting in futures:
                waiting.set_result(reply)
        if self.server.ended:
            self.over.set()

    def _call(self, worker: int | None, entrance: str, *content) -> list[Reply]:
        """A message that cannot be right is its sender's error; any other failure ends the run for all."""
        try:
            return self._enter(entrance, *content)
        except ProtocolError:
            raise
        except Exception as error:
            self.error = self.error or error
            self._enter("end", "error")
            return [Reply(each, None) for each in sorted({*self.waiting, worker} - {None})]

    def _enter(self, entrance: str, *content) -> list[Reply]:
        return getattr(self.server, entrance)(*content, self.clock())
