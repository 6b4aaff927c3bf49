"""A worker's way to several servers, each of which has a part of the vector."""

import torch
from torch.futures import Future

from asgd.engines import rpc, shared
from asgd.engines.base import Exchange
from asgd.engines.parts import names, parts
from asgd.messages import Reply, Update
from asgd.parameters import Blocks
from asgd.task import Task


def here(server: str) -> str:
    """The key in the store that says that a server can be called."""
    return f"here/{server}"


def exchange(rank: int, payload: str, servers: int, store, timeout: float, held: int = 1) -> Exchange:
    """A worker's way to the server, or to several once all are there. TimeoutError after ``timeout`` seconds.

    ``held``: see ``asgd.engines.rpc.RpcExchange``.
    """
    if servers == 1:
        return rpc.RpcExchange(rank, payload, held=held)
    for name in names(servers)[1:]:
        rpc.wait_for(store, here(name), timeout, f"the server {name} did not come")
    return DividedExchange(rank, payload, servers)


class DividedExchange:
    """One exchange for each server; what a worker sends is split for them, and their replies are put together."""

    def __init__(self, rank: int, payload: str, servers: int):
        self.payload = payload
        self.exchanges = [rpc.RpcExchange(rank, payload, name) for name in names(servers)]

    def attach(self, task: Task) -> None:
        """Servers on this host read their parts of one and the same outbox."""
        self.parts, self.like = parts(task.params, len(self.exchanges)), torch.empty_like(task.params, device="cpu")
        self.blocks = Blocks(task.allocate)
        self.seen = [False] * len(self.exchanges)
        task.outbox = task.pin(shared.connect(self.payload, task.params, self._offer))
        for exchange, part, seen in zip(self.exchanges, self.parts, self.seen, strict=True):
            if task.outbox is not None and seen:
                exchange.outbox = task.outbox[part]
            else:
                exchange.open_lane(task.params[part].nbytes)

    def _offer(self, place: shared.Place) -> bool:
        self.seen = [exchange.offer(place) for exchange in self.exchanges]
        return all(self.seen) if self.payload == "shared" else any(self.seen)

    def join(self, worker: int, session: int) -> Reply:
        return self._together([exchange.begin_join(worker, session) for exchange in self.exchanges])

    def push(self, update: Update) -> Reply:
        sent = zip(self.exchanges, split(update, self.parts), strict=True)
        return self._together([exchange.begin_push(each) for exchange, each in sent])

    def _together(self, coming: list[Future]) -> Reply:
        """One reply of all. RuntimeError where they are not of one version."""
        replies = [each.completed(reply) for each, reply in zip(self.exchanges, rpc.results(coming), strict=True)]
        first, models = replies[0], [reply.model for reply in replies]
        if first.model is None:
            return first
        versions = [model and model.version for model in models]
        if len(set(versions)) > 1:
            raise RuntimeError(f"the servers have answered with versions {versions}; please report it")
        whole = torch.cat([model.params for model in models], out=self.blocks.take(self.like))
        return first._replace(model=first.model._replace(params=whole))


def split(update: Update, parts: list[slice]) -> list[Update]:
    """What each server is sent. The first one has the buffers."""
    nothing = update.buffers.new_empty(0)
    return [
        update._replace(payload=update.payload[part], buffers=nothing if number else update.buffers)
        for number, part in enumerate(parts)
    ]
