"""A worker's way to the server of a star."""

import logging
import time
from collections import deque

from torch import Tensor

from asgd.engines import shared
from asgd.engines.star import contents
from asgd.engines.star.caller import BEAT, Anew, Caller, Lost
from asgd.engines.star.contents import Body, Failure, Hello, Join, Share, Taken, Unshare, Welcome
from asgd.messages import Reply, Update
from asgd.task import Task

log = logging.getLogger(__name__)


class Line:
    """Typed calls through a ``Caller``. ValueError for what the server does not grant."""

    def __init__(self, caller: Caller):
        self.caller = caller

    def call(self, body: Body, *vectors: Tensor) -> tuple[Body, list[memoryview]]:
        answer, memories = self.caller.call(contents.encode(body), vectors)
        found = contents.decode_answer(answer)
        if isinstance(found, Failure):
            raise ValueError(found.reason)
        return found, memories

    def hello(self, rank: int | None, patience: float) -> Welcome:
        """Come, under this rank or any. Lost if another worker has it for longer than ``patience`` seconds."""
        deadline, told = time.monotonic() + patience, False
        while True:
            try:
                answer, _ = self.call(Hello(rank))
            except Anew:
                self.caller.begin()
                continue
            if not isinstance(answer, Taken):
                return answer
            if not told:
                log.warning("a worker of rank %s is there already; waiting until it is gone", rank)
                told = True
            if time.monotonic() > deadline:
                raise Lost(f"the run already has worker{rank}; give each worker its own rank")
            time.sleep(BEAT)


class Kept:
    """Updates that a crash of the server could still undo, in the order of their rounds."""

    def __init__(self):
        self.updates: deque[Update] = deque()

    def add(self, update: Update) -> None:
        """Not one that is sent again. Its vectors are copied, since their memory is used again."""
        if not self.updates or update.round > self.updates[-1].round:
            payload = update.payload.clone() if isinstance(update.payload, Tensor) else update.payload
            self.updates.append(update._replace(payload=payload, buffers=update.buffers.clone()))

    def durable(self, rounds: int) -> None:
        while self.updates and self.updates[0].round < rounds:
            self.updates.popleft()

    def go_on(self, round: int) -> int:
        """The round at which computing goes on, where the server is at ``round`` and is sent what follows from here."""
        if self.updates and self.updates[0].round > round:
            log.warning("rounds %d to %d are lost", round, self.updates[0].round - 1)
            self.updates.clear()
        self.durable(round)
        return round + len(self.updates)


class StarExchange:
    """``payload``: see ``asgd.engines.shared``. ``held``: how many of its last models the worker may still read.

    ``kept``: where updates are kept until they are durable, or None.
    """

    def __init__(self, line: Line, rank: int, payload: str, held: int, kept: Kept | None):
        self.line, self.rank, self.payload, self.held, self.kept = line, rank, payload, held, kept
        self.outbox: Tensor | None = None
        self.views = shared.Views()

    def attach(self, task: Task) -> None:
        self.outbox = task.outbox = shared.connect(self.payload, task.params, self._offer)

    def _offer(self, place: shared.Place) -> bool:
        answer, _ = self.line.call(Share(contents.described(place), self.held))
        there = answer.place and contents.place(answer.place)
        if there is None or self.views.of(there) is not None:
            return there is not None
        self.line.call(Unshare())
        return False

    def join(self, worker: int, session: int) -> Reply:
        """Also sends the kept updates, as computed on what the server has now: what they were computed on is undone."""
        reply = self._reply(*self.line.call(Join(session)))
        for update in list(self.kept.updates) if self.kept else ():
            if reply.model is None:
                break
            reply = self.push(update._replace(session=session, version=reply.model.version))
        return reply

    def push(self, update: Update) -> Reply:
        if self.kept:
            self.kept.add(update)
        in_outbox = self.outbox is not None and isinstance(update.payload, Tensor)
        if in_outbox:
            shared.carry(update.payload, self.outbox)
        body, vectors = contents.pushed(update, in_outbox)
        return self._reply(*self.line.call(body, *vectors))

    def _reply(self, given: contents.Given, memories: list[memoryview]) -> Reply:
        if self.kept:
            self.kept.durable(given.durable)
        reply = contents.reply(self.rank, given, memories)
        if reply.model and isinstance(reply.model.params, shared.Place):
            if (params := self.views.of(reply.model.params)) is None:
                raise Anew("the server's memory cannot be seen any more")
            reply = reply._replace(model=reply.model._replace(params=params))
        return reply
