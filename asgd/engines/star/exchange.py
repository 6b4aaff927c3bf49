"""A worker's way to the server of a star."""

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial

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

    def call(self, body: Body, *vectors: Tensor, anew: bool = False) -> tuple[Body, list[memoryview]]:
        answer, memories = self.caller.call(contents.encode(body), vectors, anew)
        found = contents.decode_answer(answer)
        if isinstance(found, Failure):
            raise ValueError(found.reason)
        return found, memories

    def hello(self, rank: int | None, patience: float, anew: bool = False) -> Welcome:
        """Come, under this rank or any. Lost if another worker has it for longer than ``patience`` seconds.

        ``anew``: in a new session.
        """
        deadline, told = time.monotonic() + patience, False
        while True:
            try:
                answer, _ = self.call(Hello(rank), anew=anew)
            except Anew:
                anew = True
                continue
            anew = False
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
        self.there = 0  # rounds that the server had when it was last asked; a crash may undo them yet

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
        if self.updates and self.updates[-1].round + 1 < round:  # made by another process under this rank
            self.updates.clear()
        self.there = round
        return self.updates[-1].round + 1 if self.updates else round

    def undone(self) -> list[Update]:
        """What the server does not have."""
        return [update for update in self.updates if update.round >= self.there]


class StarExchange:
    """``payload``: see ``asgd.engines.shared``. ``held``: how many of its last models the worker may still read."""

    def __init__(self, line: Line, rank: int, payload: str, held: int):
        self.line, self.rank, self.payload, self.held = line, rank, payload, held
        self.outbox, self.place = None, None

    def attach(self, task: Task) -> None:
        self.views = shared.Views(partial(task.pin, writable=False))
        self.outbox = task.outbox = task.pin(shared.connect(self.payload, task.params, self._offer))

    def _offer(self, place: shared.Place) -> bool:
        self.place = place
        answer, _ = self.line.call(Share(contents.described(place), self.held))
        there = answer.place and contents.place(answer.place)
        if there is None or self.views.of(there) is not None:
            return there is not None
        self.line.call(Unshare())
        return False

    def join(self, worker: int, session: int) -> Reply:
        return self._reply(*self.line.call(Join(session)))

    def push(self, update: Update) -> Reply:
        in_outbox = self.outbox is not None and isinstance(update.payload, Tensor)
        if in_outbox:
            shared.carry(update.payload, self.outbox)
        body, vectors = contents.pushed(update, in_outbox)
        return self._reply(*self.line.call(body, *vectors))

    def _reply(self, given: contents.Given, memories: list[memoryview]) -> Reply:
        reply = contents.reply(self.rank, given, memories)
        if reply.model and isinstance(reply.model.params, shared.Place):
            if (params := self.views.of(reply.model.params)) is None:
                raise Anew("the server's memory cannot be seen any more")
            reply = reply._replace(model=reply.model._replace(params=params))
        return reply


class DurableExchange(StarExchange):
    """Keeps updates until no crash of the server can undo them, and sends again what one has undone.

    ``renew`` begins a new session and tells the round at which the worker is to go on, which is the next one unless
    updates were lost.
    """

    def __init__(self, *arguments, kept: Kept, renew: Callable[[], int]):
        super().__init__(*arguments)
        self.kept, self.renew = kept, renew
        self.session, self.version = 0, 0  # of the present life of the server; and the last version it gave

    def join(self, worker: int, session: int) -> Reply:
        """The kept updates go as computed on what the server has now, since what they were computed on is undone."""
        self.session = session
        reply = super().join(worker, session)
        for update in self.kept.undone():
            if reply.model is None:
                break
            reply = super().push(update._replace(session=session, version=reply.model.version))
        return reply

    def push(self, update: Update) -> Reply:
        self.kept.add(update)
        try:
            return super().push(update._replace(session=self.session, version=min(update.version, self.version)))
        except Anew as error:
            log.warning("%s; sending again what is not durable, %d updates", error, len(self.kept.updates))
            return self._recovered(update)

    def _recovered(self, update: Update) -> Reply:
        """The answer to ``update`` in another session. Anew where computing cannot just go on."""
        while self.renew() == update.round + 1:
            try:
                if self.outbox is None or self._offer(self.place):
                    return self.join(self.rank, secrets.randbits(62))
                break
            except Anew:
                continue  # the server has died again
        raise Anew("updates were lost, or the server is out of sight")

    def _reply(self, given: contents.Given, memories: list[memoryview]) -> Reply:
        self.kept.durable(given.durable)
        self.version = self.version if given.version is None else given.version
        return super()._reply(given, memories)
