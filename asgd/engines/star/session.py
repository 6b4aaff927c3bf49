"""Sessions: calls that are acted on once each, over a network that loses, repeats, delays and cuts.

A ``Client`` makes one call at a time and numbers them 1, 2, ...; the ``Desk`` keeps for each session the number of the
last call it has received and the answer to it. Nothing is sent again on suspicion: every so often the client sends a
numbered ``Beat``, and the desk says what it has. A client that learns, from a beat it sent later, that its call is not
there sends it again; if the answer has left and is not here it asks for it ``Again``. A message that is out of turn
changes nothing. The desk forgets a session that has not been heard of for as long as its lease; a server that was
restarted knows none. Both answer what belongs to such a session with ``Refused``, and the client begins a new one.

Here are the messages; ``client`` and ``desk`` are the two ends. Neither has a socket, a thread or a clock: messages go
in and come out, and the caller says what time it is. So what is promised here is checked by searching through what a
network and crashes can do (tests/test_session.py).
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

CHUNK = 1 << 22  # bytes of a vector in one message, so that nothing else waits long behind it
REASON = 1000  # letters, at most, of why a call is refused
BODY = 1 << 18  # bytes, at most, of a call that are not vectors
VECTORS = 1000  # of a call or an answer, at most

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
