"""A worker's end of a session: one call at a time, which is repeated where a heartbeat shows that it was lost."""

from collections.abc import Callable, Iterator

from asgd.engines.star.session import Again, Answer, Beat, Call, Incoming, Message, More, Out, Refused, State, messages


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
