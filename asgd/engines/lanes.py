"""Vectors over a connection of their own where worker and server share no memory, so that RPC carries only the call.

TensorPipe receives into fresh memory, whose pages cost more than the way; here vectors are received into blocks that
are used again. Each worker has one connection, beside its calls and in their order: it has one exchange under way, so
what comes belongs to that. For each connection the server listens anew, where its RPC does, and to one who knows the
token that was given over RPC; nothing listens any more once it has come.
"""

import hmac
import logging
import queue
import secrets
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from asgd.codecs.base import Encoded
from asgd.parameters import Blocks

log = logging.getLogger(__name__)

LARGE = 1 << 16  # bytes; what is smaller goes along with the call
TOKEN = 16  # bytes
SECONDS = 20.0  # for a worker to come


class Way(NamedTuple):
    """Where a worker finds its connection, and what it says there to be let in."""

    address: str
    port: int
    token: bytes


class Hole(NamedTuple):
    """Stands in a message for a vector that travels beside it."""

    dtype: torch.dtype
    numbers: int

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * self.numbers


class Door:
    """Listens at ``address`` for one worker. OSError where that is no address of this machine."""

    def __init__(self, address: str):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.create_server((address, 0), family=family, backlog=1)
        self.way = Way(address, self.listener.getsockname()[1], secrets.token_bytes(TOKEN))

    def let_in(self) -> socket.socket:
        """The worker's connection; whoever does not know the token is sent away. TimeoutError if none comes."""
        deadline = time.monotonic() + SECONDS
        with self.listener:
            while True:
                self.listener.settimeout(max(0.001, deadline - time.monotonic()))
                connection, _ = self.listener.accept()
                connection.settimeout(1.0)
                if knows(connection, self.way.token):
                    return connection
                connection.close()

    def close(self) -> None:
        self.listener.close()


def knows(connection: socket.socket, token: bytes) -> bool:
    try:
        return hmac.compare_digest(connection.recv(TOKEN, socket.MSG_WAITALL), token)
    except OSError:
        return False


def connect(way: Way, allocate: Callable[[Tensor], Tensor] | None = None) -> "Lane":
    """A worker's end; ``allocate`` as of ``Blocks``. ConnectionError if the server cannot be reached there."""
    try:
        connection = socket.create_connection(way[:2], timeout=SECONDS)
        connection.sendall(way.token)
    except OSError as error:
        raise ConnectionError(
            f"the server's port {way.port} at {way.address} cannot be reached ({error}); nodes connect to each other "
            "on ports of their own choice, which the network has to let pass"
        ) from error
    return Lane(connection, allocate=allocate)


class Lane:
    """One end of a connection. Received vectors belong to the receiver; their memory is used again when all let go.

    ``most``: bytes of a vector that is received, None for any number.
    """

    def __init__(self, connection: socket.socket, most: int | None = None, allocate: Callable | None = None):
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        unpace(connection)
        self.connection, self.most = connection, most
        self.blocks: dict[Hole, Blocks] = defaultdict(partial(Blocks, allocate))
        self.outgoing: queue.SimpleQueue[list[Tensor] | None] = queue.SimpleQueue()
        self.sender: threading.Thread | None = None

    def send(self, vectors: list[Tensor]) -> None:
        for vector in vectors:
            self.connection.sendall(memory(vector))

    def send_later(self, vectors: list[Tensor]) -> None:
        """Sent in a thread, so that nobody else waits for this connection. None of them may be written any more."""
        if self.sender is None:
            self.sender = threading.Thread(target=self._send_all, name="lane", daemon=True)
            self.sender.start()
        self.outgoing.put(vectors)

    def _send_all(self) -> None:
        with suppress(OSError):  # the receiver is gone; who watches over it will say so
            while self._sent(self.outgoing.get()):
                pass

    def _sent(self, vectors: list[Tensor] | None) -> bool:
        self.send(vectors or [])
        return vectors is not None

    def receive(self, hole: Hole) -> Tensor:
        """The next vector. ConnectionError if the other end is gone; ValueError, and an end, if it is too large."""
        if self.most is not None and hole.nbytes > self.most:
            self.close()
            raise ValueError(f"a vector of {hole.nbytes:,} bytes where at most {self.most:,} are expected")
        vector = self.blocks[hole].take(torch.empty(1, dtype=hole.dtype).expand(hole.numbers))
        rest = memory(vector)
        while rest:
            if not (count := self.connection.recv_into(rest, 0, socket.MSG_WAITALL)):
                raise ConnectionResetError("the other end of the connection is gone")
            rest = rest[count:]
        return vector

    def close(self) -> None:
        """Whoever sends or receives here gets an error."""
        self.outgoing.put(None)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def unpace(connection: socket.socket) -> None:
    """Between processes of one host there is no network to go easy on, and pacing (BBR) costs a third of the speed."""
    own, other = connection.getsockname(), connection.getpeername()
    if own[0] == other[0]:
        with suppress(AttributeError, OSError):  # other systems have no such choice
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def memory(vector: Tensor) -> memoryview:
    """The bytes of a contiguous vector, in place."""
    return memoryview(vector.view(torch.uint8).numpy())


def apart(payload: Tensor | Encoded) -> tuple[Tensor | Hole | Encoded, list[Tensor]]:
    """The payload with holes where it is large, and the vectors that belong there."""
    parts = payload.parts if isinstance(payload, Encoded) else (payload,)
    vectors = [part for part in parts if part.nbytes >= LARGE]
    left = tuple(Hole(part.dtype, part.numel()) if part.nbytes >= LARGE else part for part in parts)
    return (Encoded(left) if isinstance(payload, Encoded) else left[0]), vectors


def whole(payload: Tensor | Hole | Encoded, lane: Lane) -> Tensor | Encoded:
    """The payload with its holes filled by what comes."""
    if isinstance(payload, Encoded):
        return Encoded(tuple(whole(part, lane) for part in payload.parts))
    return lane.receive(payload) if isinstance(payload, Hole) else payload
