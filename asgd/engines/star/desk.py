"""The server's end of all sessions: each call is acted on once, and its answer kept until the next one comes."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from asgd.engines.star.session import (
    REASON,
    Again,
    Answer,
    Beat,
    Call,
    Incoming,
    Message,
    More,
    Refusal,
    Refused,
    State,
    messages,
)

REMEMBERED = 4096  # sessions that have ended, whose late calls must not open them anew
SEATS = 10_000  # sessions at a time, at most


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
