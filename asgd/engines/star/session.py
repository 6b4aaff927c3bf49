"""Sessions: calls that are acted on once each, over a network that loses, repeats, delays and cuts.

A ``Client`` makes one call at a time and numbers them 1, 2, ...; the ``Desk`` keeps for each session the number of the
last call it has received and the answer to it. Nothing is sent again on suspicion: every so often the client sends a
numbered ``Beat``, and the desk says what it has. A client that learns, from a beat it sent later, that its call is not
there sends it again; if the answer has left and is not here it asks for it ``Again``. A message that is out of turn
changes nothing. The desk forgets a session that has not been heard of for as long as its lease; a server that was
restarted knows none. Both answer what belongs to such a session with ``Refused``, and the client begins a new one.

Neither has a socket, a thread or a clock: messages go in and come out, and the caller says what time it is. So what is
promised here is checked by searching through what a network and crashes can do (tests/test_session.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Protocol

import msgspec

CHUNK = 1 << 22  # bytes of a vector in one message, so that nothing else waits long behind it
REASON = 1000  # letters, at most, of why a call is refused
REMEMBERED = 4096  # sessions that have ended, whose late calls must not open them anew
BODY = 1 << 18  # bytes, at most, of a call that are not vectors
VECTORS = 1000  # of a call or an answer, at most
SEATS = 10_000  # sessions at a time, at most


Sizes = Annotated[tuple[int, ...], msgspec.Meta(max_length=VECTORS)]


class Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``session`` is a fresh random number of the client's choice."""

    session: int


class Call(Message, tag=1):
    """The first ``serial`` is 1. After it come vectors of so many bytes (``sizes``)."""

    serial: int
    body: Annotated[bytes, msgspec.Meta(max_length=BODY)]
    sizes: Sizes = ()


class More(Message, tag=2):
    """Beside it travels a piece of a vector, from byte ``at`` on, of the call or answer ``serial``."""

    serial: int
    vector: int
    at: int


class Beat(Message, tag=3):
    """The client is alive. Numbered, so that the answer tells what it is about."""

    number: int


class Again(Message, tag=4):
    """The answer to call ``serial`` has not come."""

    serial: int


class Answer(Message, tag=5):
    serial: int
    body: bytes
    sizes: Sizes = ()


class State(Message, tag=6):
    """To beat ``number``: the last call that was received whole, the last one answered, and whether all is over."""

    number: int
    received: int
    answered: int
    over: bool = False


class Refused(Message, tag=7):
    """The desk does not know the session, or (``reason``) will not have the call ``serial``."""

    serial: int
    reason: str = ""


Out = tuple[Message, memoryview | None]
DECODER = msgspec.msgpack.Decoder(Call | More | Beat | Again | Answer | State | Refused)
encode = msgspec.msgpack.Encoder().encode


class Refusal(ValueError):
    """A call that no correct client makes, or that cannot be granted; nothing was changed."""


def messages(head: Call | Answer | Refused, vectors: Iterable[memoryview]) -> Iterator[Out]:
    """A call or an answer, and its vectors piece by piece."""
    yield head, None
    for number, vector in enumerate(vectors):
        for at in range(0, len(vector), CHUNK):
            yield More(head.session, head.serial, number, at), vector[at : at + CHUNK]


class Incoming:
    """Vectors that come piece by piece into ``rooms``, in order. Another piece than the next one is left out."""

    def __init__(self, rooms: list[memoryview]):
        self.rooms, self.vector, self.at = rooms, 0, 0
        self._skip_full()

    def _skip_full(self) -> None:
        while self.vector < len(self.rooms) and self.at == len(self.rooms[self.vector]):
            self.vector, self.at = self.vector + 1, 0

    @property
    def whole(self) -> bool:
        return self.vector == len(self.rooms)

    def receive(self, more: More, piece: memoryview) -> None:
        if self.whole or (more.vector, more.at) != (self.vector, self.at):
            return
        room = self.rooms[self.vector]
        if not 0 < len(piece) <= len(room) - self.at:
            return
        room[self.at : self.at + len(piece)] = piece
        self.at += len(piece)
        self._skip_full()


class Client:
    """One end of a session. ``room(sizes)`` makes memory for the vectors of an answer.

    ``answer`` is the last call's (body, vectors' memory) once it is whole; ``lost``, that the session is not known
    there; ``refused``, why the call was; ``over``, that no call is needed any more.
    """

    def __init__(self, session: int, room: Callable[[tuple[int, ...]], list[memoryview]]):
        self.session, self.room = session, room
        self.serial, self.number = 0, 0
        self.sent_at: int | None = None  # the beat after which all of the call had been sent
        self.calling: tuple[Call, list[memoryview]] | None = None
        self.coming: tuple[Answer, Incoming] | None = None
        self.answer: tuple[bytes, list[memoryview]] | None = None
        self.refused: str | None = None
        self.lost = self.over = False

    def call(self, body: bytes, vectors: list[memoryview]) -> Iterator[Out]:
        """The next call; ``sent`` is to be called when all of it has been handed to the network."""
        self.serial += 1
        self.calling = Call(self.session, self.serial, body, tuple(map(len, vectors))), vectors
        self.coming = self.answer = self.refused = None
        return self._send()

    def _send(self) -> Iterator[Out]:
        self.sent_at = None
        return messages(*self.calling)

    def sent(self) -> None:
        """All has been handed to the network; only what a later beat tells is about it."""
        if self.sent_at is None:
            self.sent_at = self.number

    def beat(self) -> Beat:
        self.number += 1
        return Beat(self.session, self.number)

    def receive(self, message: Message, piece: memoryview | None) -> Iterator[Out]:
        """What is to be sent because of it."""
        if message.session == self.session:
            if isinstance(message, Answer | More):
                self._take(message, piece)
            elif isinstance(message, Refused) and self.calling and message.serial in (0, self.serial):
                self.lost, self.refused = not message.reason, message.reason or None
                self.calling = None
            elif isinstance(message, State):
                return self._look(message)
        return iter(())

    def _take(self, message: Answer | More, piece: memoryview | None) -> None:
        if not self.calling or message.serial != self.serial:
            return
        if isinstance(message, Answer):
            self.coming = message, Incoming(self.room(message.sizes))
        elif self.coming and piece is not None:
            self.coming[1].receive(message, piece)
        if self.coming and self.coming[1].whole:
            self.answer = self.coming[0].body, self.coming[1].rooms
            self.calling = self.coming = None

    def _look(self, state: State) -> Iterator[Out]:
        """The call is sent again, or its answer asked for, where a later beat shows that it was lost."""
        self.over = self.over or state.over
        if self.calling and self.sent_at is not None and state.number > self.sent_at:
            if state.received < self.serial:
                return self._send()
            if state.answered >= self.serial:
                return iter([(Again(self.session, self.serial), None)])
        return iter(())


class Seat:
    """What the desk knows of a session: where its messages come from, and how far its calls are."""

    def __init__(self, peer: object, now: float):
        self.peer, self.heard = peer, now
        self.coming: tuple[Call, Incoming] | None = None
        self.received = self.answered = 0
        self.answer: tuple[Answer | Refused, list[memoryview]] | None = None


def is_first(message: Message) -> bool:
    return isinstance(message, Call) and message.serial == 1


class Acts(Protocol):
    """What the desk's calls are for."""

    def room(self, session: int, body: bytes, sizes: tuple[int, ...]) -> list[memoryview]:
        """Memory for the vectors of a call that is about to come. Refusal where such a call cannot be."""

    def act(self, session: int, serial: int, body: bytes, vectors: list[memoryview]) -> None:
        """Act on a call that is there, and have ``Desk.answer`` called in the end, in whatever way it ends."""

    def gone(self, session: int, reason: str) -> None:
        """A session has ended without a goodbye."""


class Desk:
    """The server's end of all sessions. ``send(peer, message, piece)``; ``lease``: seconds without any message."""

    LONGEST = 1.0  # seconds that count between two looks: while the server itself stood still, nobody could be heard

    def __init__(self, acts: Acts, send: Callable[[object, Message, memoryview | None], None], lease: float):
        self.acts, self.send, self.lease = acts, send, lease
        self.seats: dict[int, Seat] = {}
        self.ended: deque[int] = deque(maxlen=REMEMBERED)
        self.over = False
        self.awake, self.looked = 0.0, None

    def receive(self, peer: object, message: Message, piece: memoryview | None) -> None:
        seat = self.seats.get(message.session) or self._opened(peer, message)
        if seat is None:
            return self._unknown(peer, message)
        seat.peer, seat.heard = peer, self.awake
        try:
            self._receive(seat, message, piece)
        except Refusal as refusal:
            self._refuse(seat, message, str(refusal))
        return None

    def _refuse(self, seat: Seat, call: Call, reason: str) -> None:
        """That is the answer to a call. One that begins with such a call is no session."""
        seat.coming, seat.received, seat.answered = None, call.serial, call.serial
        seat.answer = Refused(call.session, call.serial, reason[:REASON]), []
        self._send_answer(seat)
        if call.serial == 1:
            self.close(call.session)

    def _unknown(self, peer: object, message: Message) -> None:
        """Nothing is known of the session. If only its first call was lost, that will come again."""
        answer: Message = Refused(message.session, 0)
        if message.session not in self.ended:
            if isinstance(message, Beat):
                answer = State(message.session, message.number, 0, 0, self.over)
            elif is_first(message):
                answer = Refused(message.session, 1, f"there are {SEATS:,} sessions already")
        self.send(peer, answer, None)

    def _opened(self, peer: object, message: Message) -> Seat | None:
        """A seat for who makes a first call, if one is left."""
        if not is_first(message) or message.session in self.ended or len(self.seats) >= SEATS:
            return None
        seat = self.seats[message.session] = Seat(peer, self.awake)
        return seat

    def _receive(self, seat: Seat, message: Message, piece: memoryview | None) -> None:
        match message:
            case Call():
                self._call(seat, message)
            case More():
                if seat.coming and piece is not None and message.serial == seat.coming[0].serial:
                    seat.coming[1].receive(message, piece)
                    self._act_if_whole(seat)
            case Beat():
                state = State(message.session, message.number, seat.received, seat.answered, self.over)
                self.send(seat.peer, state, None)
            case Again():
                if message.serial == seat.received:
                    self._send_answer(seat)

    def _call(self, seat: Seat, call: Call) -> None:
        """The next call is taken up, and the last one answered again. What came before changes nothing."""
        if call.serial == seat.received:
            return self._send_answer(seat)
        if call.serial < seat.received:
            return None
        if call.serial > seat.received + 1 or seat.answered < seat.received:
            return self._other(seat, call)
        rooms = self.acts.room(call.session, call.body, call.sizes)
        seat.coming = call, Incoming(rooms)
        return self._act_if_whole(seat)

    def _other(self, seat: Seat, call: Call) -> None:
        """A client calls again when it has been answered, and that was not here: another desk must have been there."""
        self.close(call.session)
        self._unknown(seat.peer, call)
        self.acts.gone(call.session, f"call {call.serial} came where call {seat.answered + 1} has no answer yet")

    def _act_if_whole(self, seat: Seat) -> None:
        call, incoming = seat.coming
        if incoming.whole:
            seat.received, seat.coming, seat.answer = call.serial, None, None
            self.acts.act(call.session, call.serial, call.body, incoming.rooms)

    def answer(self, session: int, serial: int, body: bytes, vectors: list[memoryview]) -> None:
        """The answer to a call that was acted on; nobody is told if the session has ended meanwhile."""
        seat = self.seats.get(session)
        if seat and seat.received == serial and seat.answered < serial:
            seat.answer = Answer(session, serial, body, tuple(map(len, vectors))), vectors
            seat.answered = serial
            self._send_answer(seat)

    def _send_answer(self, seat: Seat) -> None:
        if seat.answer:
            for message, piece in messages(*seat.answer):
                self.send(seat.peer, message, piece)

    def close(self, session: int) -> None:
        """The session has ended; what still comes of it is refused."""
        if self.seats.pop(session, None):
            self.ended.append(session)

    def look(self, now: float) -> None:
        """Time has passed: who has not been heard of for the length of the lease is gone."""
        self.awake += min(now - self.looked, self.LONGEST) if self.looked is not None else 0.0
        self.looked = now
        for session in [each for each, seat in self.seats.items() if self.awake - seat.heard > self.lease]:
            self.close(session)
            self.acts.gone(session, f"nothing was heard of it for {self.lease:g} s")
