"""``role=ps`` with a rank from 2 on: a server that has a part of the vector and follows the first one."""

from pathlib import Path

import torch
from torch.futures import Future

from asgd import describe
from asgd.engines import processes, roles, rpc
from asgd.engines.base import Clock, Node
from asgd.engines.divided import here
from asgd.engines.mail import Mail
from asgd.engines.ordered import Follower
from asgd.engines.parts import parts
from asgd.job import Job
from asgd.server import Server


class FollowingService(Mail):
    """What workers and the first server may ask of another one."""

    def lifeline(self) -> Future:
        """Never done: it breaks when this process ends."""
        return Future()

    def follow(self, number: int, now: float, method: str, *arguments) -> Future:
        done = self.hub.follow(number, now, method, *arguments)
        if method == "leave":
            self.forget(*arguments)
        return done


def follow(job: Job, rank: int, folder: Path) -> None:
    """The server's life, until the run is over."""
    torch.set_num_threads(job.engine.server_threads(job))
    name = f"ps{rank}"
    task = job.task("cpu")
    part = parts(task.params, job.engine.servers)[rank - 1]
    service = FollowingService(None, part)
    store, place, interface = roles.enlist(job, name, job.workers + rank)
    rpc.connect(name, place, service, store, interface, threads=job.workers + 4)
    plan = rpc.result(rpc.call("ps", "hello_server", rank))
    server = made(Job(job.config | plan["options"]), task, part, plan["state"])
    service.hub = Follower(server, lambda key, finite: rpc.call("ps", "arrived", rank, key, finite))
    facts = {"first_parameter": part.start, "parameters": part.stop - part.start}
    facts |= describe.node(job.config, "ps", rank, str(job.server_device), job.threads)
    node = Node(folder, name, facts, Clock(plan["clock"]))
    shipper = None if roles.is_folder_of(plan["run"], folder) else roles.shipper_of(node)
    farewell = ("server_lost", rank, "it was interrupted")
    try:
        with processes.catching(processes.interrupt):
            staying = rpc.call_later("ps", "stay", rank)
            store.set(here(name), "1")
            rpc.result(staying)
        farewell = ("goodbye_server", rank)
    finally:
        node.close()
        roles.leave(shipper, farewell)


def made(job: Job, task, part: slice, state: dict | None) -> Server:
    """The server with this ``part``, at the beginning of the run or where it goes on."""
    server = job.server(task, part)
    server.parameters.step_on(job.server_device)
    if state:
        server.load_state_dict(state | {"buffers": server.buffers.state_dict(), "published": server.published})
    return server
