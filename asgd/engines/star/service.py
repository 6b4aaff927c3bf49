"""What workers call of the server: they come, share memory, join, push, ship their files, and say goodbye."""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from torch import Tensor
from torch.futures import Future

from asgd.engines.mail import Mail
from asgd.engines.shipping import Mirror
from asgd.engines.star import contents
from asgd.engines.star.contents import (
    Body,
    Done,
    Failure,
    Goodbye,
    Hello,
    Join,
    Push,
    Ship,
    Shipped,
)
from asgd.engines.star.hosting import StarHost
from asgd.engines.star.post import Post
from asgd.engines.star.session import Refusal
from asgd.engines.star.sockets import Memory, memory

log = logging.getLogger(__name__)

THREADS = 8  # that act on calls; updates are looked at by several while one is applied
MOST_WORKERS = 100_000


class Service:
    """Acts on the calls of all sessions; see ``asgd.engines.star.session.Acts``."""

    def __init__(self, host: StarHost, post: Post):
        self.host, self.post, self.mail = host, post, Mail(host.hub)
        self.mirror = Mirror(host.folder)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="service")
        self.lock, self.empty = threading.Lock(), threading.Event()
        self.ranks: dict[int, int] = {}  # session: worker
        self.sessions: dict[int, int] = {}  # worker that is there: session
        self.memory = Memory()
        self.desk = post.desk_for(self)
        post.open(host.broken)

    # What the desk asks

    def room(self, session: int, body: bytes, sizes: tuple[int, ...]) -> list[memoryview]:
        """Checked before anything is allocated: which calls may come, and vectors of which sizes."""
        try:
            call = contents.decode_call(body)
            if isinstance(call, Hello) == (session in self.ranks):
                raise ValueError("a session begins with a hello that is granted, and has one")
            expected = self._sizes(call, session)
        except (msgspec.DecodeError, ValueError) as error:
            raise Refusal(f"no call that is granted here: {error}") from error
        if sizes != expected:
            raise Refusal(f"vectors of {sizes} bytes where the call says {expected}")
        if isinstance(call, Ship):
            return [memoryview(bytearray(call.size))]
        return [memory(self.memory.take(size)) for size in sizes]

    def _sizes(self, call: Body, session: int) -> tuple[int, ...]:
        if isinstance(call, Ship):
            return (call.size,)
        return self._sizes_of_update(call, session) if isinstance(call, Push) else ()

    def _sizes_of_update(self, push: Push, session: int) -> tuple[int, ...]:
        """ValueError where the vectors are not those of this model, or the figures cannot be."""
        buffers = contents.kind(self.host.server.buffers.value)
        if push.buffers != buffers:
            raise ValueError(f"buffers {push.buffers}, this model has {buffers}")
        if push.correct is not None and not push.correct <= push.samples > 0:
            raise ValueError(f"{push.correct} of {push.samples} samples are right")
        if push.payload is None:
            if push.encoded or self.ranks.get(session) not in self.mail.outboxes:
                raise ValueError("a payload in an outbox that the server does not see")
        elif push.payload not in (payloads := self._payloads(push.encoded)):
            raise ValueError(f"payload {push.payload}, here it is one of {payloads}")
        return tuple(map(contents.size, (*(push.payload or ()), push.buffers)))

    def _payloads(self, encoded: bool) -> list[tuple[contents.Kind, ...]]:
        """What the vectors of a payload may be. ValueError where it has to be encoded, or must not be."""
        codec, whole = self.host.server.codec, (contents.kind(self.host.server.parameters.vector),)
        if encoded != (codec is not None):
            raise ValueError("a payload that is encoded" if encoded else "a payload that is not encoded")
        if codec is None:
            return [whole]
        return [(), tuple((str(dtype), numbers) for dtype, numbers in codec.layout) or whole]

    def act(self, session: int, serial: int, body: bytes, vectors: list[memoryview]) -> None:
        self.pool.submit(self._act, partial(self._answer, session, serial), session, body, vectors)

    def gone(self, session: int, reason: str) -> None:
        self.pool.submit(self._left, session, partial(self.host.lost, reason=reason))

    # Calls, in threads

    def _act(self, answer: Callable, session: int, body: bytes, vectors: list[memoryview]) -> None:
        call = contents.decode_call(body)
        try:
            if isinstance(call, Hello):
                return answer(self._hello(session, call.rank))
            rank = self._rank(session)
            if isinstance(call, Join | Push):
                return self._exchange(answer, rank, call, vectors)
            return answer(self._do(session, rank, call, vectors))
        except ValueError as error:
            self.post.do(partial(self.post.note, "made a call that is not granted", str(error)))
            return answer(Failure(str(error)))
        except Exception as error:
            log.exception("a call failed in the server; please report it")
            return answer(Failure(f"the server failed at it: {error!r}"))

    def _answer(self, session: int, serial: int, body: Body, vectors: list[Tensor] = ()) -> None:
        sent = [memory(vector) for vector in vectors]
        self.post.do(partial(self.desk.answer, session, serial, contents.encode(body), sent))

    def _rank(self, session: int) -> int:
        if session not in self.ranks:
            raise ValueError("a session begins with a hello that is granted")
        return self.ranks[session]

    def _hello(self, session: int, rank: int | None) -> Body:
        most = MOST_WORKERS if self.host.job.auto else self.host.job.workers
        with self.lock:
            if rank is None:
                rank = next((each for each in range(1, most + 1) if each not in self.sessions), None)
            if rank is None or (rank in self.sessions and self.sessions[rank] != session):
                return contents.Taken()
            if not 1 <= rank <= most:
                raise ValueError(f"rank={rank}: a worker of workers={most} has a rank from 1 to {most}")
            self.ranks[session], self.sessions[rank] = rank, session
            self.empty.clear()
        if session not in self.desk.seats:  # it has ended while its hello waited
            self._left(session, partial(self.host.lost, reason="it was gone before it was welcome"))
        entry = self.host.server.ledger.get(rank)
        options = json.dumps(self.host.job.shared())
        place = rank, entry.round if entry else 0, self.host.epoch
        return contents.Welcome(*place, self.host.clock(), self.host.mark, options)

    def _exchange(self, answer: Callable, rank: int, call: Join | Push, vectors: list[memoryview]) -> None:
        if isinstance(call, Join):
            coming = self.mail.join(rank, call.session)
        else:
            coming = self.mail.push(contents.update(rank, call, vectors))
        coming.add_done_callback(partial(self._given, answer, rank))

    def _given(self, answer: Callable, rank: int, coming: Future) -> None:
        answer(*contents.given(coming.value(), self.host.durable(rank)))

    def _do(self, session: int, rank: int, call: Body, vectors: list[memoryview]) -> Body:
        match call:
            case contents.Share(place, held):
                self._check_place(place)
                found = self.mail.share(rank, contents.place(place), held)
                return contents.Shared(contents.described(found) if found else None)
            case contents.Unshare():
                self.mail.forget(rank)
            case Ship(name, _, base, at):
                return Shipped(self.mirror.receive(f"worker{rank}", name, base, at, bytes(vectors[0])))
            case Goodbye(skipped, reason):
                end = partial(self.host.lost, reason=reason) if reason else partial(self.host.goodbye, skipped=skipped)
                self._left(session, end)
        return Done()

    def _check_place(self, place: contents.Where) -> None:
        params = self.host.server.parameters.vector
        if (given := (place[4], place[3])) != contents.kind(params):
            raise ValueError(f"memory for {given}, this model has {contents.kind(params)}")

    def _left(self, session: int, tell: Callable[[int], None]) -> None:
        """The end of a worker's life, told once; only then another may come under its rank."""
        rank = self.ranks.pop(session, None)
        if rank is None:
            return
        tell(rank)
        self.mail.forget(rank)
        with self.lock:
            del self.sessions[rank]
            if not self.sessions:
                self.empty.set()

    # What the server's own process tells

    def failed(self, rank: int, reason: str) -> None:
        """The worker's process is known to have died."""
        self.post.do(partial(self._close, self.sessions.get(rank), reason))

    def _close(self, session: int | None, reason: str) -> None:
        if session is not None:
            self.desk.close(session)
            self.gone(session, reason)

    def dismiss(self, seconds: float) -> None:
        """Tell the workers that the run is over and wait for their goodbyes."""
        self.post.do(partial(setattr, self.desk, "over", True))
        if self.sessions and not self.empty.wait(seconds):
            log.warning("no goodbye from workers %s within %g s", sorted(self.sessions), seconds)

    def close(self) -> None:
        """Nobody is heard any more."""
        self.pool.shutdown(cancel_futures=True)
        self.post.close()
