"""What goes wrong in a trial, drawn from its seed: who does what at which point of whose round."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

SHORT, LONG = (0.1, 0.4), (3.0, 5.0)  # seconds; the lease is in between
LEASE = 2.0
WORKERS = 3
SERVER = 0  # where others have the rank of a worker
ANYWHERE = ("computing", "pushing", "replied", "received", "applied")  # of a worker's round
SAVING = ("saving", "written", "saved")  # of a version's checkpoint
TOPOLOGIES = {
    "async": ("topology=async",),
    "sync": ("topology=sync", "topology.rule._target_=tests.chaos.nodes.SumOfWorkers"),
    "ssp": ("topology=ssp",),
    "k_batch_async": ("topology=k_batch_async", "optimizer.lr=2.0"),
}


@dataclass(frozen=True)
class Fault:
    """At the first time that ``who`` comes to the ``point`` of ``round`` or of a later one, ``action`` happens.

    ``who`` is a worker, whose round is meant; or the server, of whose checkpoints the version is meant. ``target``: of
    a kill or a stop, which node.
    """

    number: int
    who: int
    round: int
    point: str
    action: str
    target: int = SERVER
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A trial. ``way``: all (one command), or by hand behind a proxy of ``streams`` or of ``messages``.

    ``slots``: how many numbers count the rounds of a worker. ``beyond``: rounds of each worker after the last fault.
    ``naive``: workers push again what they get no answer to.
    """

    seed: int
    way: str
    topology: str
    durability: str
    payload: str
    slots: int
    faults: tuple[Fault, ...] = field(default=())
    beyond: int = 8
    naive: bool = False

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> "Plan":
        content = json.loads(path.read_text())
        return Plan(**content | {"faults": tuple(Fault(**each) for each in content["faults"])})

    def options(self) -> tuple[str, ...]:
        """Of the command, or of each node."""
        return (
            "engine=zmq", f"engine.lease={LEASE}", "engine.restarts=1000", "engine.join_timeout=100",
            f"seed={self.seed}",
            f"engine.durability={self.durability}", f"engine.payload={self.payload}", f"workers={WORKERS}",
            "model=quadratic", "model.start=0", "model.b=0", "model.eigenvalues=0", "model.dtype=float32",
            "dataset=noise", f"dataset.shape=[{WORKERS * self.slots}]", "optimizer.lr=1.0",
            *TOPOLOGIES[self.topology], "topology.worker._target_=tests.chaos.nodes.OneHot",
            "topology.server._target_=tests.chaos.nodes.Watched",
            "timing=deterministic", "timing.compute.seconds=0.005",
            "budget.epochs=null", "budget.updates=1000000", "evaluate.every=0", "checkpoint.every=20",
        )  # fmt: skip


def drawn(seed: int, brief: bool) -> Plan:
    """The trial of a seed. A ``brief`` one has fewer and shorter faults, and is started by one command."""
    random = Random(seed)
    way = "all" if brief else random.choice(("all", "all", "streams", "messages"))
    names = list(TOPOLOGIES)
    topology, durability = names[seed % len(names)], ("checkpoint", "update")[seed // 4 % 2]
    payload = random.choice(("shared", "wire"))
    slots = 1 << 18 if not brief and random.random() < 0.2 else 1 << 10
    kinds = KINDS | (NETWORK if way == "streams" else {})
    most = 3 if brief else 6
    faults = [drawn_fault(random, number, kinds, brief) for number in range(random.randint(2, most))]
    return Plan(seed, way, topology, durability, payload, slots, tuple(faults))


def drawn_fault(random: Random, number: int, kinds: dict, brief: bool) -> Fault:
    return kinds[random.choice(list(kinds))](random, number, 10 + 12 * number + random.randrange(10), brief)


def seconds(random: Random, brief: bool) -> float:
    return random.uniform(*(SHORT if random.random() < (0.8 if brief else 0.5) else LONG))


def kill(random: Random, number: int, round: int, brief: bool) -> Fault:
    who = random.randint(1, WORKERS)
    return Fault(number, who, round, random.choice(ANYWHERE), "kill", who)


def kill_server(random: Random, number: int, round: int, brief: bool) -> Fault:
    if random.random() < 0.5:
        return Fault(number, random.randint(1, WORKERS), round, random.choice(("received", "applied")), "kill")
    return Fault(number, SERVER, round, random.choice(SAVING), "kill")


def stop(random: Random, number: int, round: int, brief: bool) -> Fault:
    who = random.randint(1, WORKERS)
    target = random.choice((who, who, SERVER))
    return Fault(number, who, round, random.choice(ANYWHERE), "stop", target, seconds(random, brief))


def full(random: Random, number: int, round: int, brief: bool) -> Fault:
    return Fault(number, SERVER, round, "saving", "full")


def jump(random: Random, number: int, round: int, brief: bool) -> Fault:
    """Of the wall clock, of a worker or of the server."""
    point = random.choice(("computing", "received"))
    return Fault(number, random.randint(1, WORKERS), round, point, "jump", seconds=random.choice((-1e5, 1e5)))


def damage(random: Random, number: int, round: int, brief: bool) -> Fault:
    """Of the checkpoint that has just been written, and the server is killed."""
    return Fault(number, SERVER, max(60, round), "saved", random.choice(("tear", "flip")))


def network(random: Random, number: int, round: int, brief: bool) -> Fault:
    action = random.choice(("cut", "hole", "lag"))
    point = random.choice(ANYWHERE)
    return Fault(number, random.randint(1, WORKERS), round, point, action, seconds=seconds(random, brief))


KINDS = {each.__name__: each for each in (kill, kill_server, stop, full, jump, damage)}
NETWORK = {"network": network}
