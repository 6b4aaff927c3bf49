"""Hundreds of workers' sessions in one thread: the product's ends of sessions on sockets of one context.

They compute nothing, push the same payload and share the memory that they receive into, so what they cost is what the
exchange costs.
"""

import secrets
from collections import deque

import torch
import zmq

from asgd.engines.star import contents, sockets
from asgd.engines.star.caller import BEAT, MOST
from asgd.engines.star.client import Client
from asgd.engines.star.contents import Hello, Join
from asgd.engines.star.post import read
from asgd.engines.star.session import CHUNK
from asgd.messages import Update


class One:
    """A session: hello, join, and then one push after the other. ``pushed``: how many were answered."""

    def __init__(self, socket: zmq.Socket, rank: int, payload: torch.Tensor, room):
        self.socket, self.rank, self.payload, self.pushed = socket, rank, payload, -2  # before hello and join
        self.client, self.session = Client(secrets.randbits(62), room), secrets.randbits(62)
        self.outgoing: deque = deque()
        self.call(Hello(rank))

    def call(self, body, *vectors: torch.Tensor) -> None:
        self.outgoing.extend(self.client.call(contents.encode(body), [sockets.memory(each) for each in vectors]))

    def go_on(self) -> None:
        """The answer is there; the next call."""
        body, memories = self.client.answer
        answer, self.client.answer = contents.decode_answer(body), None
        if isinstance(answer, contents.Failure):
            raise RuntimeError(answer.reason)
        self.pushed += 1
        if self.pushed < 0:
            return self.call(Join(self.session))
        buffers = contents.vectors(answer.kinds, memories)[-1]
        figures = 0.0, None, 1, None
        update = Update(self.rank, self.session, self.pushed, answer.version, self.payload, buffers, *figures)
        push, vectors = contents.pushed(update, in_outbox=False)
        return self.call(push, *vectors)

    def receive(self) -> None:
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            self.outgoing.extend(self.client.receive(*read(frames)))
            if self.client.answer is not None:
                self.go_on()

    def send(self) -> bool:
        """Whether something still waits for room."""
        while self.outgoing:
            try:
                sockets.send(self.socket, *self.outgoing[0])
            except zmq.Again:
                return True
            self.outgoing.popleft()
        self.client.sent()
        return False


class Crowd:
    """``count`` sessions at a server, each with a ``payload`` [P]."""

    def __init__(self, port: int, count: int, payload: torch.Tensor):
        self.context, self.memory = zmq.Context(), {}
        self.context.set(zmq.MAX_SOCKETS, 4 * count + 16)
        ranks, address = range(1, count + 1), f"tcp://127.0.0.1:{port}"
        made = [sockets.dealer(self.context, address, CHUNK + MOST, None) for _ in ranks]
        self.members = {each: One(each, rank, payload, self.room) for each, rank in zip(made, ranks, strict=True)}
        self.beaten = sockets.now()

    def room(self, sizes: tuple[int, ...]) -> list[memoryview]:
        return [self.memory.setdefault(size, memoryview(bytearray(size))) for size in sizes]

    def run(self, until) -> None:
        """Until ``until()``."""
        poller = zmq.Poller()
        while not until():
            for socket, member in self.members.items():
                poller.register(socket, zmq.POLLIN | (zmq.POLLOUT if member.send() else 0))
            for socket, _ in poller.poll(BEAT * 1000):
                self.members[socket].receive()
            if sockets.now() - self.beaten > BEAT:
                self.beaten = sockets.now()
                for member in self.members.values():
                    member.outgoing.append((member.client.beat(), None))

    def pushed(self) -> list[int]:
        return [member.pushed for member in self.members.values()]

    def close(self) -> None:
        self.context.destroy(0)
