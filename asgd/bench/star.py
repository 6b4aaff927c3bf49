"""The same path over ZeroMQ: sessions, post and service on one side, a worker's caller on the other."""

import threading
from pathlib import Path
from types import SimpleNamespace

import torch

from asgd.bench.ours import JOIN_SECONDS, Exchanging, make_server
from asgd.bench.trial import HOST, Meter
from asgd.bench.work import check
from asgd.engines import rendezvous, rpc
from asgd.engines.hub import Hub
from asgd.engines.star.caller import MOST, Caller
from asgd.engines.star.exchange import Line, StarExchange
from asgd.engines.star.post import Post
from asgd.engines.star.service import Service
from asgd.engines.star.session import CHUNK

LEASE, PORT = 60.0, "star"  # seconds; the key in the trial's store


def serve(meter: Meter) -> None:
    """A host that keeps no files, with the product's service."""
    torch.set_num_threads(meter.load.threads)
    server = make_server(meter.load.size, meter.load.workers)
    job = SimpleNamespace(auto=False, workers=meter.load.workers, shared=dict)
    tells = dict.fromkeys(("lost", "goodbye", "broken"), print)
    host = SimpleNamespace(
        server=server, hub=Hub(server, lambda: 0.0), job=job, folder=Path(), epoch=1, mark="", **tells
    )
    host.clock, host.durable = lambda: 0.0, lambda rank: 0
    listener = rendezvous.listen(HOST, 0)
    rpc.open_store(HOST, meter.port, None).set(PORT, str(listener.getsockname()[1]))
    Service(host, Post(listener, LEASE, CHUNK + MOST))
    meter.idle()
    check(server.version, [server.parameters.vector.detach()], "server")


def work(meter: Meter, payload: str, in_slot: bool) -> None:
    port = rpc.open_store(HOST, meter.port, None).get(PORT).decode()
    line = Line(Caller(f"tcp://{HOST}:{port}", JOIN_SECONDS, threading.Event()))
    line.hello(meter.rank, JOIN_SECONDS)
    worker = Exchanging(meter, StarExchange(line, meter.rank, payload, held=1))
    if in_slot:
        worker.into_slot()
    meter.run(worker.step)
    check(worker.reply.model.version, [worker.reply.model.params], f"worker {meter.rank}")
