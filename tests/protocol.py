"""Sessions and a network as a single state, from which everything that may happen next can be tried.

The network keeps all that was ever sent and may hand over any of it at any time, again and again, or never: so it
loses, doubles, delays and reorders. What a connection promises is kept only where a desk has died: nothing that reached
it, or was sent before that, comes to its successor, and nothing of its own comes after its successor's first words. A
piece of a vector is read in the client's memory when it is handed over, as it is where nothing is copied, and a client
writes its next call over the last one.
"""

from collections import deque
from copy import copy
from dataclasses import dataclass

from asgd.engines.star.client import Client
from asgd.engines.star.desk import Desk, Seat
from asgd.engines.star.session import More, Refusal


@dataclass(frozen=True)
class Limits:
    """How often each thing may happen; ``sizes``: bytes of the vectors of a call after the first, which has none."""

    clients: int = 1
    calls: int = 2
    beats: int = 2
    crashes: int = 0  # of the desk
    deaths: int = 0  # of a client's process
    expiries: int = 0  # leases that run out
    refused: int = 0  # the call that is refused
    copies: bool = False  # whether a piece is what it was when it was sent, or what lies there when it is handed over
    sizes: tuple[int, ...] = (2,)
    answers: tuple[int, ...] = (2,)  # bytes of the vectors of an answer to such a call
    client: type = Client
    desk: type = Desk


SAID: list[tuple] = []  # all that was ever sent, so that a state has only numbers of it
NUMBERS: dict[tuple, int] = {}


def noted(sent: tuple) -> int:
    if sent not in NUMBERS:
        NUMBERS[sent] = len(SAID)
        SAID.append(sent)
    return NUMBERS[sent]


class Broken(AssertionError):
    """Something happened that must not."""


class Process:
    """A client's process: its end of the session, and the memory in which its vectors lie."""

    def __init__(self, kind: type, session: int):
        self.end, self.memory, self.beats = kind(session, rooms), b"", 0

    def copy(self) -> "Process":
        other = copy(self)
        other.end = copied(self.end)
        return other

    @property
    def idle(self) -> bool:
        """Whether it may make a call."""
        return self.end.calling is None and not self.end.lost


def rooms(sizes: tuple[int, ...]) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def content(salt: int, sizes: tuple[int, ...]) -> bytes:
    """Bytes of all vectors, different for each call."""
    return bytes((17 * salt + 5 * at + 1) % 256 for at in range(sum(sizes)))


def cut(memory: bytes, sizes: tuple[int, ...]) -> list[memoryview]:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [memoryview(memory)[start : start + size] for start, size in zip(starts, sizes, strict=True)]


class World:
    """``do(action)`` for one of ``actions()``. Broken if it leads to something that must not be."""

    def __init__(self, limits: Limits):
        self.limits, self.life, self.sessions = limits, 0, 0
        self.left = {"crash": limits.crashes, "die": limits.deaths, "expire": limits.expiries}
        self.desk = limits.desk(self, self._from_desk, lease=10.0)
        self.acted: list[tuple] = []  # (life, session, serial), in order
        self.pending: list[tuple] = []  # acted on and not answered
        self.excused: set[int] = set()  # sessions that the desk may have forgotten
        self.to_desk: list[int] = []  # in the order of sending: (message, piece or where it lies)
        self.reached = 0  # how many of these, at most, have reached the desk or were sent before one that has
        self.waiting = 0  # how many of these are of a time before this desk
        self.to_client: list[int] = []  # (life, message, piece)
        self.memories: dict[int, Process] = {}  # session: whose it is
        self.processes = [self._process() for _ in range(limits.clients)]

    def _process(self) -> Process:
        self.sessions += 1
        process = self.memories[self.sessions] = Process(self.limits.client, self.sessions)
        return process

    # What the desk asks for

    def room(self, session: int, body: bytes, sizes: tuple[int, ...]) -> list[memoryview]:
        if body.startswith(b"call %d " % self.limits.refused):
            raise Refusal("not this one")
        return rooms(sizes)

    def act(self, session: int, serial: int, body: bytes, vectors: list[memoryview]) -> None:
        call, got = (self.life, session, serial), (body, b"".join(map(bytes, vectors)))
        if call in self.acted:
            raise Broken(f"call {call} is acted on twice")
        if got != (made := self._made(session, serial)):
            raise Broken(f"call {call} is acted on as {got}, and was {made}")
        before = [done for life, who, done in self.acted if (life, who) == (self.life, session)]
        if before != [each for each in range(1, serial) if each != self.limits.refused]:
            raise Broken(f"call {call} is acted on after calls {before}")
        self.acted.append(call)
        self.pending.append((session, serial))

    def gone(self, session: int, reason: str) -> None:
        self.excused.add(session)

    # What is said

    def _made(self, session: int, serial: int) -> tuple[bytes, bytes]:
        """The body and the vectors of a call."""
        return b"call %d of %d" % (serial, session), content(8 * session + serial, self._sizes(serial))

    def _given(self, life: int, session: int, serial: int) -> tuple[bytes, bytes]:
        body = b"answer of life %d to call %d of %d" % (life, serial, session)
        return body, content(100 + 64 * life + 8 * session + serial, self._sizes(serial, self.limits.answers))

    def _sizes(self, serial: int, sizes: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return () if serial == 1 else self.limits.sizes if sizes is None else sizes

    # The network

    def _from_desk(self, peer, message, piece) -> None:
        sent = noted((self.life, message, None if piece is None else bytes(piece)))
        if sent not in self.to_client:
            self.to_client.append(sent)

    def _from_client(self, process: Process, messages) -> None:
        for message, piece in messages:
            sent = noted((message, piece and self._piece(message, piece)))
            if sent in self.to_desk:
                place = self.to_desk.index(sent)
                self.reached -= place < self.reached
                self.waiting -= place < self.waiting
                del self.to_desk[place]
            self.to_desk.append(sent)

    def _piece(self, message: More, piece: memoryview) -> bytes | tuple[int, int]:
        """What it is, or where it lies in the memory of its client."""
        start = sum(self.limits.sizes[: message.vector]) + message.at
        return bytes(piece) if self.limits.copies else (start, start + len(piece))

    # What may happen

    def actions(self) -> list[tuple]:
        found = [("hand", number) for number in range(len(self.to_desk))]
        found += [("bring", number) for number in range(len(self.to_client))]
        found += [("answer", number) for number in range(len(self.pending))]
        for number, process in enumerate(self.processes):
            if process.idle and process.end.serial < self.limits.calls:
                found.append(("call", number))
            if process.beats < self.limits.beats and process.end.serial:
                found.append(("beat", number))
            if process.end.lost:
                found.append(("begin", number))
            if self.left["die"]:
                found.append(("die", number))
        if self.left["expire"]:
            found += [("expire", session) for session in self.desk.seats]
        if self.left["crash"]:
            found.append(("crash", 0))
        return found

    def do(self, action: tuple) -> None:
        name, number = action
        getattr(self, f"_{name}")(number)

    def _call(self, number: int) -> None:
        process = self.processes[number]
        session, serial = process.end.session, process.end.serial + 1
        body, vectors = self._made(session, serial)
        process.memory = vectors or process.memory  # where the last call's vectors were
        self._from_client(process, process.end.call(body, cut(vectors, self._sizes(serial))))
        process.end.sent()

    def _beat(self, number: int) -> None:
        process = self.processes[number]
        process.beats += 1
        self._from_client(process, [(process.end.beat(), None)])

    def _hand(self, number: int) -> None:
        """A message reaches the desk."""
        message, piece = SAID[self.to_desk[number]]
        self.reached = max(self.reached, number + 1)
        self._pass(number)
        if isinstance(piece, tuple):
            piece = self.memories[message.session].memory[slice(*piece)]
        self.desk.receive("peer", message, piece and memoryview(piece))

    def _pass(self, number: int) -> None:
        """What waited at clients when a desk died comes once and in order, and before all that is sent later."""
        gone = min(number + 1, self.waiting)
        del self.to_desk[:gone]
        self.waiting, self.reached = self.waiting - gone, self.reached - gone

    def _bring(self, number: int) -> None:
        """A message reaches its client."""
        life, message, piece = SAID[self.to_client[number]]
        self.to_client = [each for each in self.to_client if not earlier(SAID[each], life, message.session)]
        for process in self.processes:
            if process.end.session == message.session:
                had = process.end.answer
                view = None if piece is None else memoryview(piece)
                self._from_client(process, process.end.receive(message, view))
                process.end.sent()
                if process.end.answer is not had:
                    self._check_answer(process.end)
                if process.end.lost and message.session not in self.excused:
                    raise Broken(f"session {message.session} is lost without cause")
                if process.end.refused and process.end.serial != self.limits.refused:
                    raise Broken(f"call {process.end.serial} is refused: {process.end.refused}")

    def _check_answer(self, end: Client) -> None:
        body, vectors = end.answer
        got, lives = (body, b"".join(map(bytes, vectors))), range(self.life + 1)
        acted = [life for life in lives if (life, end.session, end.serial) in self.acted]
        if got not in [self._given(life, end.session, end.serial) for life in acted]:
            raise Broken(f"call {end.serial} of session {end.session}, acted on in lives {acted}, is answered {got}")

    def _answer(self, number: int) -> None:
        session, serial = self.pending.pop(number)
        body, vectors = self._given(self.life, session, serial)
        self.desk.answer(session, serial, body, cut(vectors, self._sizes(serial, self.limits.answers)))

    def _begin(self, number: int) -> None:
        """A new session. What was sent of the old one has been read by the time that its hello is answered."""
        beats = self.processes[number].beats
        self.processes[number] = self._process()
        self.processes[number].beats = beats

    def _die(self, number: int) -> None:
        """A new process, which remembers nothing."""
        self.left["die"] -= 1
        self._begin(number)

    def _expire(self, session: int) -> None:
        self.left["expire"] -= 1
        self.desk.seats[session].heard = float("-inf")
        self.desk.look(0.0)

    def _crash(self, _: int) -> None:
        """A new desk, which knows nothing. What waits at a client, behind all that has left, is not lost."""
        self.left["crash"] -= 1
        self.life += 1
        self.excused |= {process.end.session for process in self.processes}
        self.desk, self.pending = self.limits.desk(self, self._from_desk, lease=10.0), []
        self.to_desk, self.reached = self.to_desk[self.reached :], 0
        self.waiting = len(self.to_desk)

    # A network that is well again

    def settle(self, beats: int = 3) -> None:
        """From now on nothing is lost and nobody dies: every call has to come to its end."""
        self.to_desk, self.to_client, self.reached, self.waiting = [], [], 0, 0
        for number, process in enumerate(self.processes):
            for _ in range(beats):
                if process.end.calling is not None:
                    self._beat(number)
                    self._deliver()
            if process.end.calling is not None:
                raise Broken(f"call {process.end.serial} of session {process.end.session} never ends")
            unknown = process.end.session not in self.desk.seats and process.end.serial > 1
            if unknown and process.end.answer is None and not process.end.lost:
                raise Broken(f"session {process.end.session} does not learn that it is lost")

    def _deliver(self) -> None:
        """All that is sent, in order, until nothing more is."""
        while self.to_desk or self.to_client or self.pending:
            if self.to_desk:
                self._hand(0)
                self.to_desk.pop(0)
            elif self.to_client:
                self._bring(0)
                del self.to_client[0]
            else:
                self._answer(0)

    # States

    @property
    def ordered(self) -> bool:
        """Whether it matters in which order messages were sent."""
        return bool(self.left["crash"] or self.waiting)

    def copy(self) -> "World":
        """Shares nothing with this one that either will change."""
        other = copy(self)
        for name in ("left", "acted", "pending", "excused", "to_desk", "to_client"):
            setattr(other, name, copy(getattr(self, name)))
        same = {id(each): each.copy() for each in self.memories.values()}
        other.memories = {session: same[id(each)] for session, each in self.memories.items()}
        other.processes = [same[id(each)] for each in self.processes]
        other.desk = copy(self.desk)
        other.desk.acts, other.desk.send, other.desk.ended = other, other._from_desk, copy(self.desk.ended)
        other.desk.seats = {session: copied(seat) for session, seat in self.desk.seats.items()}
        return other

    def key(self) -> tuple:
        """Equal for states from which the same may happen."""
        ends = tuple((of_client(each.end), each.memory, each.beats) for each in self.processes)
        seats = tuple(sorted((session, *of_seat(seat)) for session, seat in self.desk.seats.items()))
        way = (tuple(self.to_desk), self.reached, self.waiting) if self.ordered else frozenset(self.to_desk)
        memories = tuple(each.memory for each in self.memories.values())
        done = frozenset(self.acted), frozenset(self.pending), frozenset(self.excused), tuple(self.left.values())
        return ends, seats, tuple(self.desk.ended), way, frozenset(self.to_client), memories, done


def copied(end: Client | Seat) -> Client | Seat:
    other = copy(end)
    if end.coming:
        head, incoming = end.coming
        there = copy(incoming)
        there.rooms = [memoryview(bytearray(room)) for room in incoming.rooms]
        other.coming = head, there
    return other


def earlier(sent: tuple, life: int, session: int) -> bool:
    return sent[0] < life and sent[1].session == session


def of_client(end: Client) -> tuple:
    state = end.session, end.serial, end.number, end.sent_at, end.calling is None, end.answer is None, end.lost
    return *state, end.coming and of_coming(*end.coming)


def of_seat(seat: Seat) -> tuple:
    coming = seat.coming and of_coming(*seat.coming)
    return seat.received, seat.answered, seat.answer and seat.answer[0].serial, coming or ()


def of_coming(head, incoming) -> tuple:
    return head.serial, incoming.vector, incoming.at, b"".join(map(bytes, incoming.rooms))


# Searching


def explore(limits: Limits, most: int = 10**9) -> int:
    """Try everything from the beginning on, the shortest ways first, and let each state settle; how many there are.

    Broken, with the way that leads there, where something happens that must not. Stops at ``most`` states.
    """
    start = World(limits)
    seen, border = {start.key()}, deque([(start, ())])
    while border and len(seen) < most:
        world, way = border.popleft()
        for action in world.actions():
            after = world.copy()
            checked(after, action, way)
            if (key := after.key()) not in seen:
                seen.add(key)
                border.append((after, (*way, action)))
            else:
                after.desk = None  # so that no cycle keeps it
        checked(world, None, way)
        world.desk = None
    return len(seen)


def checked(world: World, action: tuple | None, way: tuple) -> None:
    try:
        world.do(action) if action else world.settle()
    except Broken as broken:
        steps = "".join(f"\n  {each}" for each in (*way, action or "settle"))
        raise Broken(f"{broken}, after{steps}") from None


def wander(limits: Limits, choices: list[int]) -> World:
    """One way through, on which ``choices`` decide what happens next, and which settles in the end."""
    world, way = World(limits), ()
    for choice in choices:
        if not (actions := world.actions()):
            break
        action = actions[choice % len(actions)]
        checked(world, action, way)
        way = (*way, action)
    checked(world, None, way)
    return world
