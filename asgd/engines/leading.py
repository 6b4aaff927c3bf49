"""The first of several servers: it speaks to the others, and puts together what they have."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.futures import Future

from asgd.engines import roles, rpc
from asgd.engines.evaluators import Evaluator
from asgd.engines.host import Host
from asgd.engines.hub import Hub
from asgd.engines.lines import Others
from asgd.engines.ordered import Key, Leader
from asgd.engines.parts import cut, joined, parts
from asgd.job import Job
from asgd.messages import Model
from asgd.server import Server

log = logging.getLogger(__name__)


class Pending(NamedTuple):
    """A snapshot of which only the first part is here."""

    model: Model
    coming: list[Future]

    @property
    def version(self) -> int:
        return self.model.version

    def whole(self) -> Model:
        models = [self.model, *rpc.results(self.coming)]
        same_version([each.version for each in models])
        return self.model._replace(params=torch.cat([each.params for each in models]))


def same_version(versions: list[int]) -> None:
    if len(set(versions)) > 1:
        raise RuntimeError(f"the servers are at versions {versions}; please report it")


class LeadingHost(Host):
    """A host whose server has the first part of the vector. A server that is lost ends the run."""

    def __init__(self, job: Job, folder: Path, evaluate: Callable, on_worker_failure: str):
        vector = job.task("cpu").params
        self.parts, self.size = parts(vector, job.engine.servers), vector.numel()
        self.others = Others(job.engine.servers, self.server_lost)
        self.states: dict[int, dict] = {}  # where the other servers go on, until they have come
        self.finished = False
        super().__init__(job, folder, lambda pending: evaluate(pending.whole()), on_worker_failure)

    def new_server(self) -> Server:
        return self.job.server(self.job.task("cpu"), self.parts[0])

    def new_hub(self) -> Hub:
        return Leader(self.server, self.clock, len(self.others.lines), self.others.say)

    def load(self, state: dict) -> None:
        first, *rest = (cut(state, self.size, part) for part in self.parts)
        self.states = dict(enumerate(rest, start=2))
        super().load(first)

    def snapshot(self) -> Pending:
        return Pending(super().snapshot(), self.others.say(self.clock(), "snapshot"))

    def state(self, now: float) -> dict:
        return super().state(now) | {"others": self.others.say(now, "state")}

    def completed(self, state: dict) -> dict:
        states = [state["server"], *rpc.results(state.pop("others"))]
        same_version([each["parameters"]["version"] for each in states])
        return state | {"server": joined(states, [part.stop - part.start for part in self.parts])}

    def plan(self, rank: int) -> dict:
        """What another server has to know: what ends the run, and where it goes on."""
        options = {"budget": self.server.budget.limits | {"epochs": None}, "nonfinite": self.job.config["nonfinite"]}
        return {"options": options, "state": self.states.pop(rank, None)}

    def server_lost(self, rank: int, reason: str) -> None:
        """A part of the vector is gone, and with it the run; unless it is over, or that is known."""
        if self.finished or self.hub.error:
            return
        self.hub.error = rpc.Lost(f"the server ps{rank} failed: {reason}")
        log.error("%s", self.hub.error)
        self.hub.end("error")
        self.server.ended = "error"

    def _give_up(self, seconds: float) -> None:
        if missing := self.others.missing():
            log.error("no servers %s within %g s; start each with role=ps and its rank", ", ".join(missing), seconds)
        super()._give_up(seconds)

    def finish(self, seconds: float) -> dict:
        self.others.close()
        try:
            return super().finish(seconds)
        finally:
            self.finished = True


class LeadingService(roles.Service):
    """Also what other servers may ask of the first one."""

    def __init__(self, host: LeadingHost, evaluator: Evaluator):
        super().__init__(host, evaluator)
        self.part, self.servers_left = host.parts[0], threading.Event()
        self.staying = set(host.others.lines)

    def hello_server(self, rank: int) -> dict:
        return self.welcome() | self.host.plan(rank)

    def stay(self, rank: int) -> Future:
        """Another server is ready; the future is done when the run is over."""
        rpc.when_lost(f"ps{rank}", partial(self.server_lost, rank))
        self.host.others.lines[rank].open()
        return self.over

    def arrived(self, rank: int, key: Key, finite: bool) -> None:
        self.host.hub.arrived(rank, key, finite)

    def server_lost(self, rank: int, reason: str) -> None:
        self.host.server_lost(rank, reason)

    def goodbye_server(self, rank: int) -> None:
        self.staying.discard(rank)
        if not self.staying:
            self.servers_left.set()

    def close(self) -> None:
        super().close()
        self.servers_left.wait(roles.HURRY_SECONDS)


def serve(job: Job, folder: Path, *listening) -> dict:
    """The life of the only or the first server: see ``roles.serve``."""
    kinds = (LeadingHost, LeadingService) if job.engine.servers > 1 else (Host, roles.Service)
    return roles.serve(job, folder, *listening, kinds=kinds)
