"""A star in this process: a real port with all that is behind it, and workers as this file makes them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asgd import keys
from asgd.engines.star import contents
from asgd.engines.star.caller import Caller
from asgd.engines.star.exchange import Line, StarExchange
from asgd.engines.star.hosting import StarHost
from asgd.engines.star.post import Post
from asgd.engines.star.service import Service
from asgd.engines.star.session import CHUNK
from asgd.messages import Model, Reply, Update
from tests.conftest import free_port
from tests.scripted import a_job

PATIENCE = 60.0


class Star:
    """The server's side. ``reply`` of a worker's exchange is answered as in a run, until ``with`` ends."""

    def __init__(self, folder: Path, *options: str, lease: float = 30.0, secured: keys.Ring | None = None):
        self.port = free_port()
        job = a_job("engine=zmq", "evaluate.every=0", *options)
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        (folder / "stats" / "ps").mkdir(parents=True)
        self.host = StarHost(job, folder, lambda model: None)
        self.post = Post(listener, lease, CHUNK + (1 << 17), secured, waiting=128)
        self.service = Service(self.host, self.post)

    def close(self) -> None:
        self.host.hub.end("interrupted")
        self.service.close()
        self.host.checkpoints.close()
        self.host.node.close()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def worker(self, rank: int | None = None, **options) -> "Node":
        return Node(self.address, rank, **options)


@contextmanager
def a_star(folder: Path, *options: str, **more) -> Iterator[Star]:
    star = Star(folder, *options, **more)
    try:
        yield star
    finally:
        star.close()


class Node:
    """A worker whose updates are what the test says."""

    def __init__(
        self, address: str, rank: int | None = None, payload: str = "wire", secured: keys.Ring | None = None,
        patience: float = PATIENCE, like: torch.Tensor | None = None,
    ):  # fmt: skip
        self.caller = Caller(address, patience, threading.Event(), secured)
        self.line = Line(self.caller)
        try:
            self.welcome = self.line.hello(rank, patience)
        except BaseException:
            self.caller.close()
            raise
        self.rank, self.round, self.session = self.welcome.rank, self.welcome.round, 1
        self.exchange = StarExchange(self.line, self.rank, payload, 1)
        self.reply: Reply | None = None

    def join(self) -> Model:
        self.reply = self.exchange.join(self.rank, self.session)
        return self.reply.model

    def update(self, value: float = 0.0, **fields) -> Update:
        model = self.reply.model
        who = self.rank, self.session, self.round, model.version
        rest = torch.full_like(model.params, value), model.buffers.clone(), 0.5, None, 1
        return Update(*who, *rest)._replace(**fields)

    def push(self, value: float = 0.0, **fields) -> Model:
        """The next round."""
        self.reply = self.exchange.push(self.update(value, **fields))
        self.round += 1
        return self.reply.model

    def leave(self) -> None:
        self.line.call(contents.Goodbye(0))
        self.caller.close()
