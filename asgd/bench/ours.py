"""The product's own path: server, hub and mail on one side, a worker's exchange on the other, over its RPC."""

from functools import partial

import torch
from torch import Tensor

from asgd.bench.trial import HOST, Meter
from asgd.bench.work import GRADIENT, check, sgd
from asgd.budget import Budget
from asgd.buffers import Latest
from asgd.engines import divided, rendezvous, rpc
from asgd.engines.base import Exchange
from asgd.engines.hub import Hub
from asgd.engines.mail import Mail
from asgd.messages import Reply, Update
from asgd.parameters import Parameters
from asgd.policies import Immediate
from asgd.rules import MeanOfUpdates
from asgd.schedules import Constant
from asgd.server import Server
from asgd.weights import Constant as One

JOIN_SECONDS = 60.0
NOTHING = torch.empty(0)  # buffers
SESSION = 1
FOREVER = 1 << 60  # updates


def make_server(size: int, workers: int) -> Server:
    """Each update is a step of its own; nobody waits for anybody."""
    parameters = Parameters(torch.zeros(size), partial(sgd, fused=True), Constant())
    return Server(parameters, Latest(NOTHING), MeanOfUpdates(1), One(), Immediate(), Budget(updates=FOREVER), workers)


def serve(meter: Meter, shards: int | None = None) -> None:
    """``shards``: threads of the server, those of ``meter`` if there are none."""
    torch.set_num_threads(shards or meter.load.threads)
    server = make_server(meter.load.size, meter.load.workers)
    service = Mail(Hub(server, lambda: 0.0))
    store = rpc.open_store(HOST, meter.port, None)
    rpc.connect("ps", 0, service, store, rendezvous.interface_to(HOST), threads=meter.load.workers + 4)
    store.set(rpc.READY, "1")
    meter.idle()
    check(server.version, [server.parameters.vector.detach()], "server")


class Held:
    """What an exchange needs of a task on the CPU."""

    allocate = None

    def __init__(self, params: Tensor):
        self.params, self.outbox = params, None

    def pin(self, vector: Tensor | None, writable: bool = True) -> Tensor | None:
        return vector


class Exchanging:
    """A worker that has its gradient at once: in its slot from the start, or in memory of its own."""

    def __init__(self, meter: Meter, exchange: Exchange):
        self.rank, self.exchange, self.round = meter.rank, exchange, 0
        self.task = Held(torch.zeros(meter.load.size))
        self.exchange.attach(self.task)
        self.gradient = torch.full_like(self.task.params, GRADIENT)
        self.reply: Reply = self.exchange.join(self.rank, SESSION)

    def into_slot(self) -> None:
        """From now on the gradient is where the server looks for it."""
        self.gradient: Tensor = self.task.outbox.fill_(GRADIENT)

    def step(self, over: bool) -> bool:
        version = self.reply.model.version
        update = Update(self.rank, SESSION, self.round, version, self.gradient, NOTHING, 0.0, None, 1)
        self.reply, self.round = self.exchange.push(update), self.round + 1
        return over


def work(meter: Meter, payload: str, in_slot: bool, servers: int = 1) -> None:
    store = rpc.find_store(HOST, meter.port, JOIN_SECONDS)
    exchange = divided.exchange(meter.rank, payload, servers, store, JOIN_SECONDS)
    rpc.connect(f"worker{meter.rank}", meter.rank, None, store, rendezvous.interface_to(HOST), threads=4)
    worker = Exchanging(meter, exchange)
    if in_slot:
        worker.into_slot()
    meter.run(worker.step)
    check(worker.reply.model.version, [worker.reply.model.params], f"worker {meter.rank}")
