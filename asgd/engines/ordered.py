"""Several servers as one: the first decides the order of arrival, and all go through the same arrivals in that order.

Each has a part of the vector and runs the whole server on it: the same rule, policy, ledger and budget. What decides is
decided once. A worker's message arrives when all servers have their parts of it, so that no death in between leaves it
with some; an update is finite if all its parts are; and the time is the first server's. So each version is one version
on all servers. No network is known here: ``say`` and ``announce`` carry what the servers tell each other.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from torch.futures import Future

from asgd.engines.hub import Hub
from asgd.ledger import ProtocolError
from asgd.messages import Model, Reply, Update
from asgd.server import Server

JOIN = -1  # in a key, instead of a round
Key = tuple[int, int, int]  # of a worker's message: worker, session, round


@dataclass
class Message:
    """What a worker has sent to several servers; ``content`` are the arguments of its entrance at this one."""

    content: tuple = ()
    finite: bool = True
    there: set[int] = field(default_factory=set)  # the servers that have their parts
    future: Future = field(default_factory=Future)


class PartHub(Hub):
    """A hub whose workers send parts of their messages to other servers too. A message is of use when all have come."""

    def __init__(self, server: Server, clock: Callable[[], float]):
        super().__init__(server, clock)
        self.held: dict[Key, Message] = {}
        self.holding = threading.Lock()

    def join(self, worker: int, session: int) -> Future:
        return self._hold((worker, session, JOIN), worker, session)

    def push(self, update: Update) -> Future:
        update = self.server.gate.looked_at(update)
        return self._hold(update[:3], update, finite=update.finite)

    def _hold(self, key: Key, *content, finite: bool = True) -> Future:
        raise NotImplementedError

    def _forget(self, worker: int) -> None:
        """What a worker that is gone has not sent to all will never be complete."""
        with self.holding:
            self.held = {key: message for key, message in self.held.items() if key[0] != worker}

    def _let_in(self, key: Key, message: Message, finite: bool) -> None:
        worker, _, round = key
        content = message.content if round == JOIN else (message.content[0]._replace(finite=finite),)
        try:
            self._arrive("join" if round == JOIN else "push", *content, worker=worker, future=message.future)
        except ProtocolError as error:
            message.future.set_exception(error)


class Leader(PartHub):
    """The first server's hub. ``say(now, method, *arguments)`` lets the ``others`` do that, in the order of calls."""

    def __init__(self, server: Server, clock: Callable[[], float], others: int, say: Callable[..., object]):
        super().__init__(server, clock)
        self.others, self.say = others, say

    def _hold(self, key: Key, *content, finite: bool = True) -> Future:
        return self._part(key, 1, finite, content)

    def arrived(self, server: int, key: Key, finite: bool) -> None:
        """Another server (from 2 on) has its part of a message."""
        self._part(key, server, finite)

    def leave(self, worker: int) -> None:
        self._forget(worker)
        super().leave(worker)

    def _part(self, key: Key, server: int, finite: bool, content: tuple = ()) -> Future:
        with self.holding:
            message = self.held.setdefault(key, Message())
            message.content, message.finite = message.content or content, message.finite and finite
            message.there.add(server)
            complete = len(message.there) > self.others
            if complete:
                del self.held[key]
        if complete:
            self._let_in(key, message, message.finite)
        return message.future

    def _enter(self, entrance: str, *content) -> list[Reply]:
        """Tell the others first, so that all work on it at the same time."""
        now = self.clock()
        if entrance == "push":
            self.server.check(*content)
            self.say(now, "accept", content[0][:3], content[0].finite)
        elif entrance == "join":
            self.say(now, "accept", (*content, JOIN), True)
        else:
            self.say(now, entrance, *content)
        return getattr(self.server, entrance)(*content, now)


class Follower(PartHub):
    """Another server's hub. ``announce(key, finite)`` says to the first one that a part is here."""

    def __init__(self, server: Server, announce: Callable[[Key, bool], object]):
        super().__init__(server, lambda: self.now)
        self.announce, self.now = announce, 0.0
        self.following = threading.Lock()
        self.entries: dict[int, tuple] = {}  # number: what to do, and the future of its result
        self.next = 0

    def _hold(self, key: Key, *content, finite: bool = True) -> Future:
        with self.holding:
            message = self.held.setdefault(key, Message(content))
        self.announce(key, finite)
        return message.future

    def follow(self, number: int, now: float, method: str, *arguments) -> Future:
        """Do what the first server has done, in its order: a future of the result, once all before is done."""
        done = Future()
        with self.following:
            self.entries[number] = now, method, arguments, done
            while self.next in self.entries:
                self._perform(*self.entries.pop(self.next))
                self.next += 1
        return done

    def _perform(self, now: float, method: str, arguments: tuple, done: Future) -> None:
        self.now = now
        try:
            result = getattr(self, method)(*arguments)
            if self.error:
                raise self.error
            done.set_result(result)
        except Exception as error:
            done.set_exception(error)

    def accept(self, key: Key, finite: bool) -> None:
        """A message of a worker, all of whose parts have come, is next."""
        with self.holding:
            message = self.held.pop(key)
        self._let_in(key, message, finite)

    def leave(self, worker: int) -> None:
        self._forget(worker)
        super().leave(worker)

    def snapshot(self) -> Model:
        with self.lock:
            return self.server.snapshot()

    def state(self) -> dict:
        with self.lock:
            return self.server.state_dict(self.now)
