"""A worker's socket: a thread that keeps a session alive and makes the calls of others, one at a time."""

import logging
import queue
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import zmq
from torch import Tensor
from zmq.utils.monitor import parse_monitor_message

from asgd import keys
from asgd.engines.star import sockets
from asgd.engines.star.client import Client
from asgd.engines.star.post import read
from asgd.engines.star.session import BODY, CHUNK, Out

log = logging.getLogger(__name__)

BEAT = 0.5  # seconds
MOST = 1 << 17  # bytes in a message beyond a piece of a vector

SHUT_OUT = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
WATCHED = (*SHUT_OUT, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_CONNECTED)
AT_ONCE, CLOSED = 2.0, 3  # seconds, and how often in a row a connection is closed before it is looked into


class Lost(ConnectionError):
    """The server has not been heard of for too long, or does not let this node in."""


class Anew(ConnectionError):
    """The server does not know the session: it was restarted, or has not heard of this node for too long."""


class CallRefused(ValueError):
    """The server will not have a call; the reason says why."""


class Caller:
    """A call is Lost after ``patience`` seconds without a sign of the server; ``stop`` is set when all is over."""

    def __init__(self, address: str, patience: float, stop: threading.Event, secured: keys.Ring | None = None):
        self.address, self.patience, self.stop = address, patience, stop
        self.context = zmq.Context()
        self.socket = sockets.dealer(self.context, address, CHUNK + MOST, secured)
        self.monitor = self.socket.get_monitor_socket(sum(WATCHED))
        self.wake, self.woken = socket.socketpair()
        self.todo: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self.outgoing: deque[Iterator[Out]] = deque()
        self.stuck: Out | None = None  # a message for which there was no room
        self.received = sockets.Memory()
        self.turn, self.future = threading.Lock(), None
        self.client = self._client()
        self.silence, self.looked = 0.0, sockets.now()  # seconds without a sign of the server, while this process ran
        self.beaten, self.met = sockets.now(), False
        self.connected, self.closed = sockets.now(), 0  # when, and how often in a row it was closed at once
        self.broken: Exception | None = None
        self.barred: Lost | None = None  # why this node is not let in; the socket may not try again
        self.thread = threading.Thread(target=self._live, name="caller", daemon=True)
        self.thread.start()

    # For the threads that call

    def call(self, body: bytes, vectors: Sequence[Tensor] = (), anew: bool = False) -> tuple[bytes, list[memoryview]]:
        """The answer's body and vectors. Lost, Anew or CallRefused where there is none.

        ``anew``: as the first call of a new session, once those of the old one have come to their ends.
        """
        if len(body) > BODY:
            raise ValueError(f"a call of {len(body):,} bytes beside its vectors, at most {BODY:,}")
        future = Future()
        with self.turn:
            if self.broken:
                raise self.broken
            if anew:
                self._tell((None, None, None))
            self._tell((future, body, [sockets.memory(vector) for vector in vectors]))
            if self.broken:  # by now, and nobody may have seen the call
                raise self.broken
            return future.result()

    def close(self) -> None:
        """What was sent has a second to leave."""
        self._tell(None)
        self.thread.join()
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(1000)
        self.context.term()
        self.wake.close()
        self.woken.close()

    def _tell(self, what: tuple | None) -> None:
        self.todo.put(what)
        self.wake.send(b".")

    # In the thread of the socket

    def _client(self) -> Client:
        return Client(secrets.randbits(62), self._room)

    def _room(self, sizes: tuple[int, ...]) -> list[memoryview]:
        return [sockets.memory(self.received.take(size)) for size in sizes]

    def _live(self) -> None:
        try:
            self._run()
        except Exception as error:
            log.exception("the way to the server is closed; please report it")
            self.broken = error
            if self.future:
                self._end(error=error)

    def _run(self) -> None:
        poller = zmq.Poller()
        for each in (self.monitor, self.woken):
            poller.register(each, zmq.POLLIN)
        while True:
            poller.register(self.socket, zmq.POLLIN | (zmq.POLLOUT if self.outgoing else 0))
            ready = dict(poller.poll(max(0.0, self.beaten + BEAT - sockets.now()) * 1000))
            if self.woken.fileno() in ready and not self._take_up():
                return
            if ready.get(self.socket, 0) & zmq.POLLIN:
                self._receive_all()
            if self.monitor in ready:
                self._shut_out(parse_monitor_message(self.monitor.recv_multipart())["event"])
            self._beat(sockets.now())
            self._send_some()

    def _take_up(self) -> bool:
        self.woken.recv(1 << 16)
        while not self.todo.empty():
            if (told := self.todo.get()) is None:
                return False
            future, body, vectors = told
            if future is None:
                self.client = self._client()
                self.outgoing.clear()
                self.stuck = None
                continue
            self.future = future
            self._send(self.client.call(body, vectors))
            if self.barred:
                self._end(error=self.barred)
        return True

    def _send(self, messages: Iterator[Out]) -> None:
        self.outgoing.append(messages)

    def _send_some(self) -> None:
        """As much as there is room for."""
        while self.outgoing:
            out = self.stuck or next(self.outgoing[0], None)
            if out is None:
                self.outgoing.popleft()
                if not self.outgoing:
                    self.client.sent()
                continue
            self.stuck = out
            try:
                sockets.send(self.socket, *out)
            except zmq.Again:
                return
            self.stuck = None

    def _receive_all(self) -> None:
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            if found := read(frames):
                self.silence, self.met = 0.0, True
                self._send(self.client.receive(*found))
                self._look()

    def _look(self) -> None:
        """Tell whoever waits how its call has ended."""
        client = self.client
        if client.over:
            self.stop.set()
        if self.future is None:
            return
        if client.answer is not None:
            self._end(answer=client.answer)
        elif client.lost:
            self._end(error=Anew("the server does not know this node's session any more"))
        elif client.refused:
            self._end(error=CallRefused(client.refused))

    def _end(self, answer=None, error: Exception | None = None) -> None:
        future, self.future = self.future, None
        if error:
            future.set_exception(error)
        else:
            future.set_result(answer)

    def _beat(self, now: float) -> None:
        self.silence, self.looked = self.silence + min(now - self.looked, 2 * BEAT), now
        if now - self.beaten >= BEAT:
            self.beaten = now
            if len(self.outgoing) < 4:  # else the network takes nothing, and a beat would only wait as well
                self._send(iter([(self.client.beat(), None)]))
        if self.future and self.silence > self.patience:
            self._end(error=Lost(f"nothing was heard of the server at {self.address} for {self.patience:g} s"))

    def _shut_out(self, event: int) -> None:
        """A server that has no use for this node's key, or for which this node has another one, says so or just closes.

        So does a tunnel whose other end is not there yet; but that does not greet.
        """
        if event == zmq.EVENT_CONNECTED:
            self.connected = sockets.now()
            return
        self.closed = self.closed + 1 if sockets.now() - self.connected < AT_ONCE else 0
        closes = self.closed % CLOSED == CLOSED - 1 and sockets.greets(self.address)
        if not self.met and (event in SHUT_OUT or closes):
            why = (
                "does not know this node's key" if event == SHUT_OUT[0] else "and this node differ in keys or protocol"
            )
            advice = "give both sides engine.keys= of one set (python -m asgd.keys)"
            self.barred = Lost(f"the server at {self.address} {why}; {advice}")
            if self.future:
                self._end(error=self.barred)
