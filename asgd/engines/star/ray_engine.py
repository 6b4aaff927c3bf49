"""``engine=ray``: the nodes of a star as actors on a Ray cluster."""

import socket
from importlib.util import find_spec
from pathlib import Path

from asgd import keys
from asgd.engines.base import check_timing
from asgd.engines.star.engine import ZmqEngine
from asgd.job import Job, choose

PLACEMENTS = ("SPREAD", "PACK", "STRICT_SPREAD", "STRICT_PACK")
PATIENCE = 5.0  # seconds for the head of a cluster to take a connection; Ray itself would try for minutes


class RayEngine(ZmqEngine):
    """Ray places and restarts the nodes; what they say to each other goes over ZeroMQ, as with ``engine=zmq``.

    ``address``: of a Ray cluster to which this machine belongs, ``auto`` for the one that runs here, None for one of
    the run's own on this machine. ``num_cpus`` and ``num_gpus``: of Ray's resources, for each worker. ``placement``:
    a strategy of Ray's placement groups, by which the workers are put on nodes. The server is on this machine's node,
    where the run folder is. ``star``: the options of ``engine=zmq`` but its address and keys, which are made for each
    run.
    """

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        placement: str = "SPREAD",
        trusted_network: bool = False,
        **star,
    ):
        super().__init__(**star)
        if address is not None and "://" in address:
            raise ValueError(
                f"engine.address={address}: null, auto or host:port; the command has to run on a node of the cluster, "
                "not on a client of it"
            )
        if not num_cpus > 0:
            raise ValueError(f"engine.num_cpus={num_cpus}: of each worker, more than 0")
        if not num_gpus >= 0:
            raise ValueError(f"engine.num_gpus={num_gpus}: of each worker, 0 or more")
        choose("engine.placement", placement, PLACEMENTS)
        self.cluster, self.trusted_network = address, trusted_network
        self.num_cpus, self.num_gpus, self.placement = num_cpus, num_gpus, placement
        self.own_keys: keys.Ring | None = None

    def meet(self, host: str, port: int, ring: keys.Ring | None) -> None:
        """On a node of the run: where the server is, and this node's keys."""
        self.host, self.port, self.own_keys = host, port, ring

    def ring(self, name: str) -> keys.Ring | None:
        return self.own_keys

    def reserve(self, job: Job) -> None:
        """Find the cluster, or start one, before anything else is. ValueError for what this engine cannot do."""
        check_timing(job)
        self.check_durability(job)
        if (role := job.config["role"]) != "all":
            raise ValueError(f"role={role}: with engine=ray one command starts all nodes; leave it out")
        if (device := job.config.get("server", {}).get("device", "cpu")) != "cpu":
            raise ValueError(f"server.device={device}: Ray gives the GPUs to workers (engine.num_gpus); leave it cpu")
        if find_spec("ray") is None:
            raise ValueError("engine=ray: Ray is not installed; pip install asgd[ray]")
        if self.cluster not in (None, "auto"):
            check_listening(self.cluster)
        from asgd.engines.star import cluster

        cluster.connect(job)

    def run(self, job: Job, folder: Path) -> None:
        from asgd.engines.star import cluster

        cluster.run(job, folder)


def check_listening(address: str) -> None:
    """ValueError where nothing listens, or the address is none."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"engine.address={address}: no Ray cluster there ({error}); give the host:port that ray start --head has "
            "printed, or auto on a node of the cluster"
        ) from error
