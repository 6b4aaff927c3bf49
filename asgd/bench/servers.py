"""The same path to two server processes, each of which has half of the vector."""

from functools import partial

import torch

from asgd.bench.ours import JOIN_SECONDS, make_server
from asgd.bench.trial import HOST, Meter
from asgd.bench.work import check
from asgd.engines import rendezvous, rpc
from asgd.engines.divided import here
from asgd.engines.following import FollowingService
from asgd.engines.lines import Others
from asgd.engines.mail import Mail
from asgd.engines.ordered import Follower, Leader
from asgd.engines.parts import parts

COUNT = 2


class LeadingMail(Mail):
    """What workers and the other server may ask of the first one."""

    def __init__(self, hub: Leader, part: slice, others: Others):
        super().__init__(hub, part)
        self.others, self.arrived = others, hub.arrived

    def come(self, rank: int) -> None:
        self.others.lines[rank].open()


def lead(meter: Meter) -> None:
    torch.set_num_threads(max(1, meter.load.threads // COUNT))
    part = parts(torch.empty(meter.load.size), COUNT)[0]
    server, others = make_server(part.stop, meter.load.workers), Others(COUNT, print)
    service = LeadingMail(Leader(server, lambda: 0.0, COUNT - 1, others.say), part, others)
    store = rpc.open_store(HOST, meter.port, None)
    rpc.connect("ps", 0, service, store, rendezvous.interface_to(HOST), threads=meter.load.workers + 4)
    store.set(rpc.READY, "1")
    meter.idle()
    check(server.version, [server.parameters.vector.detach()], "first server")


def follow(meter: Meter) -> None:
    torch.set_num_threads(max(1, meter.load.threads // COUNT))
    part = parts(torch.empty(meter.load.size), COUNT)[1]
    server = make_server(part.stop - part.start, meter.load.workers)
    service = FollowingService(Follower(server, partial(rpc.call, "ps", "arrived", COUNT)), part)
    store = rpc.find_store(HOST, meter.port, JOIN_SECONDS)
    interface = rendezvous.interface_to(HOST)
    rpc.connect("ps2", meter.rank, service, store, interface, threads=meter.load.workers + 4)
    rpc.result(rpc.call("ps", "come", COUNT))
    store.set(here("ps2"), "1")
    meter.idle()
    check(server.version, [server.parameters.vector.detach()], "second server")
