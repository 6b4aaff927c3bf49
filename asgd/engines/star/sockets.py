"""ZeroMQ sockets as both ends use them: how soon a dead connection is noticed, and how much may wait in one."""

import socket
import time
from collections import defaultdict

import torch
import zmq
from torch import Tensor

from asgd import keys
from asgd.engines.star.session import Message, encode
from asgd.parameters import Blocks

PING, SILENCE = 1000, 4000  # ms: a connection on which nothing comes for that long is cut
FIRST_WORDS = 5000  # ms for a stranger to say who it is
AGAIN, AGAIN_AT_MOST, TO_CONNECT = 100, 500, 1000  # ms: when a connection is tried anew
WAITING = 16  # messages, at most of one worker, that wait to be read; each is a piece of a vector or less

now = time.monotonic


def common(made: zmq.Socket, most: int) -> zmq.Socket:
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.IPV6, 1)
    made.setsockopt(zmq.HEARTBEAT_IVL, PING)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE)
    made.setsockopt(zmq.HANDSHAKE_IVL, FIRST_WORDS)
    made.setsockopt(zmq.RCVHWM, WAITING)
    made.setsockopt(zmq.MAXMSGSIZE, most)
    return made


def router(
    context: zmq.Context, listener: socket.socket, most: int, waiting: int, secured: keys.Ring | None
) -> zmq.Socket:
    """The server's, on its own listening socket. ``most``: bytes of a frame; a larger one ends its connection.

    ``waiting``: messages that wait for one that does not read, at most; more are left out. 0: as many as come.
    """
    made = common(context.socket(zmq.ROUTER), most)
    made.setsockopt(zmq.SNDHWM, waiting)
    if secured:
        keys.secure_server(made, secured)
    host, port = listener.getsockname()[:2]
    made.setsockopt(zmq.USE_FD, listener.detach())
    made.bind(f"tcp://{f'[{host}]' if ':' in host else host}:{port}")
    return made


def dealer(context: zmq.Context, address: str, most: int, secured: keys.Ring | None) -> zmq.Socket:
    """A worker's; connects, and does so again for as long as it is there."""
    made = common(context.socket(zmq.DEALER), most)
    made.setsockopt(zmq.SNDHWM, WAITING)
    made.setsockopt(zmq.RECONNECT_IVL, AGAIN)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, AGAIN_AT_MOST)
    made.setsockopt(zmq.CONNECT_TIMEOUT, TO_CONNECT)
    if secured:
        keys.secure_worker(made, secured)
    made.connect(address)
    return made


def greets(address: str) -> bool:
    """Whether somebody who speaks ZeroMQ's protocol is there now."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1) as probe:
            return probe.recv(1) == b"\xff"
    except OSError:
        return False


def send(through: zmq.Socket, message: Message, piece: memoryview | None, *peer: bytes) -> None:
    """zmq.Again where too much waits already; a piece is not copied and must not be written any more."""
    more = zmq.SNDMORE if piece is not None else 0
    if peer:
        through.send(peer[0], zmq.DONTWAIT | zmq.SNDMORE)
    through.send(encode(message), zmq.DONTWAIT | more)
    if piece is not None:
        through.send(piece, zmq.DONTWAIT, copy=False)


def memory(vector: Tensor) -> memoryview:
    """The bytes of a contiguous vector on the CPU, in place."""
    return memoryview(vector.detach().view(torch.uint8).numpy())


class Memory:
    """Bytes to receive vectors into; used again when nobody has them any more."""

    def __init__(self):
        self.blocks: dict[int, Blocks] = defaultdict(Blocks)

    def take(self, size: int) -> Tensor:
        """[size] bytes of any content."""
        return self.blocks[size].take(torch.empty(1, dtype=torch.uint8).expand(size))
