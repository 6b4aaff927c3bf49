"""``engine=rpc``: which node this command is, and where the server is found."""

import os
from pathlib import Path

from asgd import elementwise
from asgd.engines import rendezvous
from asgd.engines.base import check_timing
from asgd.engines.parts import parts
from asgd.job import Job, choose

MOST_SHARDS = 1024  # each has a thread


class RpcEngine:
    """Options of the RPC engine. ValueError for an address that is none, or that needs ``trusted_network``.

    ``port=None`` is a free port for ``role=all`` and 29500 for the other roles; ``join_timeout`` is in seconds.
    ``payload``: whether vectors travel through memory that is ``shared`` or by ``wire``; ``auto``: where it can be.
    ``shards``: parts of the parameters that the server works on at a time; None for as many as a process has threads.
    ``servers``: processes with a part of the parameters each; all but the first have ``role=ps`` and a rank from 2 on.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = None,
        trusted_network: bool = False,
        interface: str | None = None,
        join_timeout: float = 300.0,
        on_worker_failure: str = "continue",
        payload: str = "auto",
        shards: int | None = None,
        servers: int = 1,
    ):
        rendezvous.check_address(host, port, trusted_network)
        choose("engine.on_worker_failure", on_worker_failure, ("continue", "stop"))
        choose("engine.payload", payload, ("auto", "shared", "wire"))
        if not join_timeout > 0:
            raise ValueError(f"engine.join_timeout={join_timeout}: seconds, more than 0")
        if shards is not None and not (isinstance(shards, int) and 1 <= shards <= MOST_SHARDS):
            raise ValueError(f"engine.shards={shards}: parts of the parameters, a whole number from 1 to {MOST_SHARDS}")
        if not isinstance(servers, int) or servers < 1:
            raise ValueError(f"engine.servers={servers}: processes that have the parameters, a whole number from 1 on")
        self.shards, self.servers = shards, servers
        self.host, self.port, self.interface = host, port or rendezvous.DEFAULT_PORT, interface
        self.join_timeout, self.on_worker_failure = join_timeout, on_worker_failure
        self.payload, self.any_port, self.listener = payload, port is None, None

    def interface_name(self) -> str:
        return self.interface or rendezvous.interface_to(self.host)

    def server_threads(self, job: Job) -> int:
        """Threads of torch in a server; several on this machine share what one would have."""
        here = self.servers if job.config["role"] == "all" else 1
        return self.shards or max(1, job.threads // here)

    def reserve(self, job: Job) -> None:
        """Take the port before anything is started, where this command is the one that listens. ValueError if taken."""
        check_timing(job)
        if self.servers > 1:
            self.check_parts(job)
        role = job.config["role"]
        launched = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the port for all of us
        if role == "all":
            self.listener = rendezvous.listen(self.host, 0 if self.any_port else self.port)
        elif job.leads and not launched:
            self.listener = rendezvous.listen(self.host, self.port)

    def check_parts(self, job: Job) -> None:
        """ValueError for a model that is too small for all the servers, or a method that needs the whole vector."""
        task = job.task("cpu")
        last = parts(task.params, self.servers)[-1]
        if job.leads:
            elementwise.check(job.server(task, last), f"engine.servers={self.servers}")

    def run(self, job: Job, folder: Path) -> None:
        """Be the node that ``role`` says, until the run is over. The server's folder then holds ``summary.json``."""
        from asgd.engines import following, leading, local, roles

        role = job.config["role"]
        if role == "all":
            local.run(job, folder, self.listener)
        elif job.leads:
            leading.serve(job, folder, self.listener)
        elif role == "ps":
            following.follow(job, job.config["rank"], folder)
        elif role == "worker":
            roles.work(job, job.config["rank"], folder)
        else:
            roles.judge(job, folder)
