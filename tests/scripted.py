"""Drives a server through an explicit order of arrival: one thread, and the time is the number of the arrival."""

import copy
import heapq
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from asgd import environment
from asgd.budget import Budget
from asgd.buffers import Latest
from asgd.job import Job
from asgd.messages import Model, Reply, Update
from asgd.parameters import Parameters
from asgd.policies import Immediate
from asgd.rules import MeanOfUpdates
from asgd.schedules import Constant
from asgd.server import Server
from asgd.weights import Constant as One

CONF = Path(__file__).parents[1] / "conf"
ENDLESS = ("engine=threads", "budget.epochs=null", "budget.updates=1000000")
QUADRATIC = ("model=quadratic", "dataset=noise", "dataset.shape=[3]", "model.eigenvalues=[0.3,0.7,1.0]")
DIGITS = ("model=linear", "dataset=digits", "dataset.batch_size=8")
TOPOLOGIES = sorted(path.stem for path in (CONF / "topology").glob("*.yaml"))

environment.register()
torch.set_num_threads(1)


@cache
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(choices))


def _composed(overrides: tuple[str, ...]) -> dict:
    """What Hydra makes of the command line, but the files of equal choices are read only once."""
    parsed = [OverridesParser.create().parse_override(word) for word in overrides]
    values = [each for each in parsed if not (CONF / each.key_or_group).is_dir()]
    config = copy.deepcopy(_chosen(tuple(each.input_line for each in parsed if each not in values)))
    for each in values:
        OmegaConf.update(config, each.key_or_group, each.value(), force_add=each.is_add())
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def a_job(*overrides: str, problem: tuple[str, ...] = QUADRATIC, limits: tuple[str, ...] = ENDLESS) -> Job:
    """A job made from the files in ``conf``, as the command line makes it."""
    return Job(_composed((*problem, *limits, *overrides)))


def a_server(workers: int = 2, **parts) -> Server:
    """A server on ``initial`` = [0, 0, 0] with SGD of rate 1, asynchronous unless ``parts`` say otherwise."""
    initial = parts.pop("initial", torch.zeros(3))
    optimizer = parts.pop("optimizer", partial(torch.optim.SGD, lr=1.0))
    parameters = Parameters(initial, optimizer, parts.pop("schedule", Constant()))
    defaults = {"buffers": Latest(torch.zeros(2)), "rule": MeanOfUpdates(), "weight": One(), "policy": Immediate()}
    defaults |= {"budget": Budget(updates=10**6), "workers": workers}
    return parts.pop("server", Server)(parameters, **(defaults | parts))


def an_update(worker: int, round: int = 0, version: int = 0, value: float = 1.0, **fields) -> Update:
    """The payload is [value, value, value]; session 10 * worker."""
    content = {"session": 10 * worker, "payload": torch.full((3,), value), "buffers": torch.full((2,), float(worker))}
    content |= {"loss": 0.5, "correct": 1, "samples": 4}
    return Update(worker=worker, round=round, version=version, **(content | fields))


class Formula:
    """A worker whose payload is ``formula(rank, round, params)``, one sample each; it adds its rank to the buffers."""

    def __init__(self, rank: int, formula: Callable, round: int = 0):
        self.rank, self.formula, self.session, self.round = rank, formula, 10 * rank, round

    def compute(self, model: Model) -> Update:
        payload = self.formula(self.rank, self.round, model.params)
        self.round += 1
        buffers = model.buffers + self.rank
        return Update(self.rank, self.session, self.round - 1, model.version, payload, buffers, 0.5, None, samples=1)


class Real:
    """A worker of the job, with its own task and its own data."""

    def __init__(self, job: Job, rank: int, round: int = 0):
        self.worker = job.worker(job.task("cpu"), rank, session=10 * rank, round=round)
        self.session, self.batches = self.worker.session, job.batches(self.worker)

    def compute(self, model: Model) -> Update:
        return self.worker.compute(model, self.batches)


class Script:
    """A server and its workers. ``held[w]`` is the model that worker w computes on; who waits or is gone has none.

    ``interrupts``: whether obsolete work is dropped as soon as it is, as by an engine that can interrupt its workers.
    """

    def __init__(self, server: Server, workers: dict[int, Formula | Real] | None = None, join=True, interrupts=False):
        self.server, self.workers, self.now, self.interrupts = server, workers or {}, 0.0, interrupts
        self.held: dict[int, Model] = {}
        self.stopped: set[int] = set()
        self.events, self.models, self.updates = [], [], []
        server.observers.append(self)
        if join:
            self.join(*self.workers)

    def event(self, event) -> None:
        self.events.append(event)

    def version(self, server: Server, now: float) -> None:
        self.models.append(server.snapshot())

    def join(self, *workers: int) -> None:
        for worker in workers:
            self._arrival(lambda now, w=worker: self.server.join(w, self.workers[w].session, now))

    def leave(self, worker: int) -> None:
        self.held.pop(worker, None)
        self._arrival(lambda now: self.server.leave(worker, now))

    def arrive(self, *workers: int) -> "Script":
        """These workers finish what they do and push it, in this order."""
        for worker in workers:
            update = self.workers[worker].compute(self.held.pop(worker))
            self.updates.append(update)
            self._arrival(lambda now, u=update: self.server.push(u, now))
        return self

    def arrive_at_random(self, generator, count: int, check: Callable = lambda: None) -> "Script":
        """Any of the workers that hold a model, ``count`` times or until nobody does; ``check()`` before each."""
        for _ in range(count):
            check()
            if self.held:
                self.arrive(int(generator.choice(sorted(self.held))))
        return self

    def interrupt(self) -> "Script":
        """Obsolete work is dropped and its workers go on with a newer model, for the same round."""
        if obsolete := self.server.obsolete():
            self.held = {worker: model for worker, model in self.held.items() if worker not in obsolete}
            self._entered(lambda now: self.server.cancel(obsolete, now))
        return self

    def _arrival(self, entrance: Callable[[float], list[Reply]]) -> None:
        self._entered(entrance)
        if self.interrupts:
            self.interrupt()

    def _entered(self, entrance: Callable[[float], list[Reply]]) -> None:
        self.now += 1.0
        for reply in entrance(self.now):
            if reply.model is None:
                self.stopped.add(reply.worker)
            else:
                self.held[reply.worker] = reply.model

    @property
    def params(self) -> torch.Tensor:
        return self.server.snapshot().params

    def pushes(self) -> list:
        return [event for event in self.events if event.event == "push"]

    def applied_staleness(self) -> list[int]:
        return [event.staleness for event in self.pushes() if event.applied]


def with_formula(job: Job, formula: Callable, **options) -> Script:
    """The job's server with workers whose payload is a formula of (rank, round, params)."""
    workers = {rank: Formula(rank, formula) for rank in range(1, job.workers + 1)}
    return Script(job.server(job.task("cpu")), workers, **options)


def with_tasks(job: Job, **options) -> Script:
    """The job's server and the job's own workers."""
    workers = {rank: Real(job, rank) for rank in range(1, job.workers + 1)}
    return Script(job.server(job.task("cpu")), workers, **options)


def in_time(script: Script, seconds: Callable[[int, int], float], enough: Callable[[], bool]) -> list[float]:
    """Let workers arrive when their jobs are done; ``seconds(worker, round)`` each. The times of all arrivals.

    Ties go to the smaller worker. A job that was interrupted never arrives. Ends when ``enough()`` or nobody works.
    """
    now, times, heap, begun = 0.0, [], [], {}
    while not enough():
        for worker, model in script.held.items():
            if begun.get(worker) is not model:
                begun[worker] = model
                done = now + seconds(worker, script.workers[worker].round)
                heapq.heappush(heap, (done, worker, model.version))
        if not heap:
            break
        now, worker, version = heapq.heappop(heap)
        if worker in script.held and script.held[worker].version == version:
            del begun[worker]
            script.arrive(worker)
            times.append(now)
    return times


def facts(server: Server) -> dict:
    """All that an arrival may change, but for the count of duplicates. Shares no memory with the server."""
    state = copy.deepcopy(server.state_dict(now=0.0))
    state["counts"].pop("duplicate")
    entries = {worker: (e.session, e.active, e.waiting, id(e.reply)) for worker, e in server.ledger.items()}
    return {"state": state, "entries": entries, "ended": server.ended}


def equal(a, b) -> bool:
    """Equality of nested dicts and lists, tensors compared bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
