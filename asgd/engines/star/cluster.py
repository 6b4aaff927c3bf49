"""The nodes of a star as actors on a Ray cluster.

Ray only places them and says that they have died. Each actor is a node as ``asgd.engines.star.roles`` has it, and is
supervised as the processes of ``role=all`` are: an actor that is started again is empty, and what it takes up is
decided by the session protocol and the server's checkpoint. So no retry of Ray's can apply anything twice.
"""

import ipaddress
import logging
import multiprocessing
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from asgd import keys
from asgd.engines import nodes, rendezvous
from asgd.engines.star import roles
from asgd.engines.star.supervisor import StarNodes
from asgd.job import Job

log = logging.getLogger(__name__)

LAST_WORDS = 5.0  # seconds for Ray to see that an actor was killed, and to clean up at the end


class Meeting(NamedTuple):
    """Where the server is, a node's keys, and a fresh name of the run."""

    host: str
    port: int
    ring: keys.Ring | None
    run: str


def connect(job: Job) -> None:
    """Become a driver of the cluster, or of a new one on this machine. ValueError where there is none, or no room."""
    engine = job.engine
    room = {} if engine.cluster or job.auto else {"num_cpus": int(job.workers * engine.num_cpus) + 1}
    try:
        ray.init(engine.cluster or "local", logging_level="warning", **room)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"engine.address={engine.cluster}: no Ray cluster there that this machine belongs to; ray start --head "
            f"makes one, and engine.address=null one for this run ({error})"
        ) from error
    if fitting(job) < job.workers and (job.auto or not engine.cluster):  # else more nodes may come
        ray.shutdown()
        raise ValueError(
            f"engine.num_cpus={engine.num_cpus} engine.num_gpus={engine.num_gpus}: there is no room for {job.workers} "
            "such workers"
        )


def bundle(job: Job) -> dict[str, float]:
    """The resources of a worker."""
    wanted = {"CPU": job.engine.num_cpus, "GPU": job.engine.num_gpus}
    return {name: amount for name, amount in wanted.items() if amount}


def fitting(job: Job) -> int:
    """How many workers the nodes of the cluster have room for, if nobody else is there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get(name, 0) // amount for name, amount in bundle(job).items())) for node in nodes)


def run(job: Job, folder: Path) -> None:
    """Start the nodes and stay until the last one has gone."""
    host = ray.util.get_node_ip_address() if job.engine.cluster else "127.0.0.1"
    try:
        with rendezvous.bound(host, 0) as place, tempfile.TemporaryDirectory(prefix="asgd-keys-") as made:
            rings = new_keys(Path(made)) if needs_keys(host, job) else {}
            port, name = place.getsockname()[1], secrets.token_hex(8)
            meetings = [Meeting(host, port, rings.get(role), name) for role in (keys.SERVER, keys.WORKER)]
            Actors(job, folder.resolve(), *meetings).run()
    finally:
        ray.shutdown()


def needs_keys(host: str, job: Job) -> bool:
    return not (ipaddress.ip_address(host).is_loopback or job.engine.trusted_network)


def new_keys(folder: Path) -> dict[str, keys.Ring]:
    """Of this run only. They go to the nodes in Ray's messages; no file has a secret, whatever ends this process."""
    made = keys.make(folder)
    rings = {name: keys.ring(folder, name) for name in (keys.SERVER, keys.WORKER)}
    for path in made:
        if path.suffix == ".key_secret":
            path.unlink()
    return rings


class Actors(StarNodes):
    """The server's is on this node of the cluster, where the run folder is; the workers' are where there is room.

    The port stays with this process, so that it is the same for each life of the server.
    """

    def __init__(self, job: Job, folder: Path, of_server: Meeting, of_workers: Meeting):
        room = fitting(job)
        super().__init__(job.config, folder, room if job.auto else job.workers, job.engine.restarts)
        if self.count > room:
            log.warning("the cluster has room for %d of %d workers; the others wait for more", room, self.count)
        self.job, self.of_server, self.of_workers = job, of_server, of_workers
        self.home = ray.get_runtime_context().get_node_id()
        self.group = placement_group([bundle(job)] * self.count, strategy=job.engine.placement)

    def start_server(self, config: dict) -> "Actor":
        here = NodeAffinitySchedulingStrategy(self.home, soft=False)
        actor = ray.remote(Server).options(num_cpus=0, max_concurrency=2, scheduling_strategy=here).remote()
        config = config | {"threads": self.job.threads}
        return Actor("ps", actor, actor.live.remote(config, self.folder, self.of_server))

    def start_worker(self, rank: int) -> "Actor":
        engine, threads = self.job.engine, self.config["threads"]
        place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank - 1)
        room = {"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus}
        actor = ray.remote(Worker).options(**room, scheduling_strategy=place).remote(rank)
        config = self.config | {"threads": max(1, int(engine.num_cpus)) if threads == "auto" else threads}
        return Actor(f"worker{rank}", actor, actor.live.remote(config, self.folder, self.of_workers, self.home))

    def tell(self, rank: int, reason: str) -> None:
        self.ps.actor.tell.remote(rank, reason)

    def wait(self, nodes: list, seconds: float) -> None:
        ray.wait([node.living for node in nodes], timeout=seconds)

    def how(self, node: "Actor") -> str:
        return node.how

    def stop(self) -> None:
        """An actor is there until it is killed, also when its life has ended."""
        super().stop()
        for node in filter(None, (self.ps, *self.workers.values())):
            node.kill()
        self._sweep()

    def _sweep(self) -> None:
        """Remove what workers that were killed have left on other nodes, as far as that can be done at once."""
        others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != self.home]
        places = [NodeAffinitySchedulingStrategy(each, soft=False) for each in others]
        sweeper = ray.remote(num_cpus=0, max_retries=0)(sweep)
        sweeping = [sweeper.options(scheduling_strategy=each).remote(self.of_workers.run) for each in places]
        if sweeping:
            ray.wait(sweeping, num_returns=len(sweeping), timeout=LAST_WORDS)


class Actor:
    """A node, as this process sees it: ``living`` is what Ray will have when its life has ended."""

    def __init__(self, name: str, actor, living: ray.ObjectRef):
        self.name, self.actor, self.living = name, actor, living
        self.code, self.how = None, ""

    @property
    def exitcode(self) -> int | None:
        """As that of a process: negative where it did not end of its own accord."""
        if self.code is None and ray.wait([self.living], timeout=0)[0]:
            self.code, self.how = ending(self.living)
        return self.code

    def is_alive(self) -> bool:
        return self.exitcode is None

    def terminate(self) -> None:
        self.actor.interrupt.remote()

    def kill(self) -> None:
        ray.kill(self.actor)

    def join(self) -> None:
        ray.wait([self.living], timeout=LAST_WORDS)


def ending(living: ray.ObjectRef) -> tuple[int, str]:
    """The status of a life that has ended, and how it did in words."""
    try:
        status = ray.get(living)
        return status, nodes.ending(status)
    except ray.exceptions.RayError as error:
        reason = re.search(r"\bbecause (.*?)[.\n]", f"{error}\n")
        return -signal.SIGKILL, f"was lost: {reason[1] if reason else error}"


class Server:
    """The actor of the server. It is told things while it lives, so it has two threads."""

    def __init__(self):
        self.news, self.teller = multiprocessing.Pipe(duplex=False)

    def __repr__(self) -> str:
        return "ps"

    def live(self, config: dict, folder: Path, meeting: Meeting) -> int:
        nodes.log_to(folder / "run.log", everything=True)
        return nodes.life(_serve, config, folder, meeting, self.news)

    def tell(self, rank: int, reason: str) -> None:
        """That a worker has died."""
        self.teller.send((rank, reason))

    def interrupt(self) -> None:
        self.teller.send(None)


class Worker:
    """The actor of a worker."""

    def __init__(self, rank: int):
        self.rank = rank

    def __repr__(self) -> str:
        return f"worker{self.rank}"

    def live(self, config: dict, folder: Path, meeting: Meeting, home: str) -> int:
        """On the server's node it writes into the run folder; from another one the server gets its files."""
        there = ray.get_runtime_context().get_node_id() == home
        with nullcontext(folder) if there else passing(f"asgd-{meeting.run}-{self}") as own:
            nodes.log_to(own / "run.log", everything=False)
            return nodes.life(_work, config, own, meeting, self.rank)


@contextmanager
def passing(name: str) -> Iterator[Path]:
    """A folder on this node. A worker that is killed leaves it, and its next life here goes on in it."""
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def sweep(run: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"asgd-{run}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _serve(job: Job, folder: Path, meeting: Meeting, news: Connection) -> None:
    job.engine.meet(meeting.host, meeting.port, meeting.ring)
    roles.serve(job, folder, rendezvous.listen(meeting.host, meeting.port), news)


def _work(job: Job, folder: Path, meeting: Meeting, rank: int) -> None:
    job.engine.meet(meeting.host, meeting.port, meeting.ring)
    roles.work(job, rank, folder)
