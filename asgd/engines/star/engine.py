"""``engine=zmq``: which node this command is, and where the server is found."""

import ipaddress
from pathlib import Path
from socket import socket

from asgd import keys
from asgd.engines import rendezvous
from asgd.engines.base import check_timing
from asgd.job import Job, choose


class ZmqEngine:
    """Options of the star. ValueError for an address that is none, or that needs keys.

    ``port=None`` is a free port for ``role=all`` and 29500 for the other roles. ``lease``: seconds without a sign of
    life after which a worker is taken for gone. ``join_timeout``: seconds that server and workers wait for each other.
    ``keys``: the folder of ``python -m asgd.keys``. ``restarts``: how often ``role=all`` starts each node again.
    ``durability``: what a crash of the server undoes: updates after the last ``checkpoint``, or no ``update``.
    ``payload``: see ``asgd.engines.rpc_engine``.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = None,
        keys: str | None = None,
        trusted_network: bool = False,
        lease: float = 10.0,
        join_timeout: float = 300.0,
        restarts: int = 3,
        durability: str = "checkpoint",
        on_worker_failure: str = "continue",
        payload: str = "auto",
    ):
        beyond = not ipaddress.ip_address(rendezvous.resolve(host)).is_loopback
        rendezvous.check_port(port)
        if beyond and not keys and not trusted_network:
            raise ValueError(
                f"engine.host={host} is beyond loopback, where everybody could come as a worker: make keys with "
                "python -m asgd.keys and say engine.keys=<folder>; or, where the network is trusted, "
                "engine.trusted_network=true"
            )
        choose("engine.on_worker_failure", on_worker_failure, ("continue", "stop"))
        choose("engine.payload", payload, ("auto", "shared", "wire"))
        choose("engine.durability", durability, ("checkpoint", "update"))
        if not lease >= 2:
            raise ValueError(f"engine.lease={lease}: seconds, from 2 on")
        if not join_timeout > 0:
            raise ValueError(f"engine.join_timeout={join_timeout}: seconds, more than 0")
        if not isinstance(restarts, int) or restarts < 0:
            raise ValueError(f"engine.restarts={restarts}: of each node, a whole number from 0 on")
        self.host, self.port, self.any_port = host, port or rendezvous.DEFAULT_PORT, port is None
        self.keys, self.lease, self.join_timeout, self.restarts = keys, float(lease), join_timeout, restarts
        self.durability, self.on_worker_failure, self.payload = durability, on_worker_failure, payload
        self.listener: socket | None = None

    @property
    def address(self) -> str:
        found = rendezvous.resolve(self.host)
        return f"tcp://{f'[{found}]' if ':' in found else found}:{self.port}"

    def ring(self, name: str) -> keys.Ring | None:
        return keys.ring(self.keys, name) if self.keys else None

    def server_threads(self, job: Job) -> int:
        return max(1, job.threads)

    def reserve(self, job: Job) -> None:
        """Take the port before anything is started. ValueError for what this engine cannot do."""
        check_timing(job)
        role = job.config["role"]
        if role == "evaluator":
            raise ValueError("role=evaluator: engine=zmq evaluates in a process beside the server; leave it out")
        for name in {"all": (keys.SERVER, keys.WORKER), "ps": (keys.SERVER,), "worker": (keys.WORKER,)}[role]:
            self.ring(name)
        if role != "worker":
            self.check_durability(job)
            self.listener = rendezvous.listen(self.host, 0 if self.any_port and role == "all" else self.port)

    def check_durability(self, job: Job) -> None:
        if self.durability == "checkpoint":
            return
        if not job.config["checkpoint"]["every"]:
            raise ValueError(
                "engine.durability=update: workers keep updates until the next checkpoint, and there is none; give "
                "checkpoint.every=<updates>"
            )
        if job.overlap:
            raise ValueError(
                "engine.durability=update does not fit worker.overlap=true: after a crash the server cannot know what "
                "an update was computed on that was on its way then; leave one of them out"
            )
        if job.dataset.assignment == "leased":
            raise ValueError(
                "engine.durability=update does not fit dataset.assignment=leased: after a crash batches are dealt "
                "anew, and the updates made of them would count twice; use engine.durability=checkpoint"
            )

    def run(self, job: Job, folder: Path) -> None:
        """Be the node that ``role`` says, until the run is over. The server's folder then holds ``summary.json``."""
        from asgd.engines.star import roles, supervisor

        role = job.config["role"]
        if role == "all":
            supervisor.run(job, folder, self.listener)
        elif role == "ps":
            roles.serve(job, folder, self.listener)
        else:
            roles.work(job, job.config["rank"], folder)
