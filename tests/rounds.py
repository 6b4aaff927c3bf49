"""Workers, sessions and a server with its checkpoints in one thread, with every fault at every point between them.

All but sockets, threads and files is real: ``Service`` acts on the calls, ``StarHost`` says what is durable,
``DurableExchange`` keeps updates. Worker w's update of round r moves only number (w - 1) * rounds + r, by one, so the
vector counts how often each was applied.
"""

import copy
import random
import secrets
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from asgd.engines.hub import Hub
from asgd.engines.star.caller import Anew, CallRefused
from asgd.engines.star.client import Client
from asgd.engines.star.desk import Desk
from asgd.engines.star.exchange import DurableExchange, Kept, Line, StarExchange
from asgd.engines.star.hosting import StarHost
from asgd.engines.star.service import Service
from asgd.engines.star.session import Message
from asgd.engines.star.sockets import memory
from asgd.ledger import Ledger
from asgd.messages import Reply, Update
from tests.scripted import a_server


@dataclass
class Plan:
    """What happens, by chance: how often each fault, and which parts are used."""

    durability: str = "checkpoint"
    workers: int = 2
    rounds: int = 8
    crashes: int = 2  # of the server
    deaths: int = 2  # of workers
    expiries: int = 2
    losses: int = 12  # messages lost, doubled or overtaken
    saves: int = 12  # checkpoints
    damage: bool = True  # whether the newest checkpoint may be unreadable after a crash
    client: type = Client
    desk: type = Desk
    ledger: type = Ledger


class Died(Exception):
    """The process of the worker that is calling is no more."""


class Now:
    """Does at once what others do in threads."""

    def submit(self, action, *arguments) -> None:
        action(*arguments)

    def do(self, action) -> None:
        action()

    def note(self, *_) -> None:
        pass


class Port(Now):
    """In place of ``Post``."""

    def __init__(self, run: "Run"):
        self.run = run

    def desk_for(self, acts) -> Desk:
        self.desk = self.run.plan.desk(acts, self.run.from_desk, 10.0)
        return self.desk

    def open(self, broken) -> None:
        pass


class Host:
    """A life of the server. What is durable, and what becomes of those who are lost, is as in a run."""

    durable, lost, goodbye, _saved = StarHost.durable, StarHost.lost, StarHost.goodbye, StarHost._saved

    def __init__(self, plan: Plan, epoch: int, state: dict | None):
        vector = torch.zeros(plan.workers * plan.rounds)
        self.server = a_server(workers=1, initial=vector, ledger=plan.ledger())
        if state:
            self.server.load_state_dict(copy.deepcopy(state))
        self.clock = lambda: 0.0
        self.hub, self.epoch, self.mark, self.failed, self.skipped = Hub(self.server, self.clock), epoch, "", {}, 0
        self.folder, self.on_worker_failure, self.on_disk = Path("nowhere"), "continue", deque(maxlen=2)
        engine = SimpleNamespace(durability=plan.durability)
        self.job = SimpleNamespace(workers=plan.workers, auto=False, shared=dict, engine=engine)

    def broken(self, error: Exception) -> None:
        raise error


class Run:
    """``go`` until each worker has made all its rounds."""

    def __init__(self, plan: Plan, seed: int):
        self.plan, self.chance, self.epoch = plan, random.Random(seed), 0
        self.left = {name: getattr(plan, name) for name in ("crashes", "deaths", "expiries", "losses", "saves")}
        self.disk: list[dict] = []
        self.clients: dict[int, Client] = {}  # of processes that live, by worker
        self.computed: dict[int, list[int]] = {worker: [] for worker in range(1, plan.workers + 1)}
        self._serve(None)
        self._save()

    def go(self) -> torch.Tensor:
        lives = {worker: None for worker in self.computed}
        while lives:
            worker = self.chance.choice(list(lives))
            try:
                life = lives[worker] = lives[worker] or Life(self, worker)
                if self._done(worker):
                    del lives[worker]
                else:
                    life.step()
            except Died:
                lives[worker] = None
        return self.host.server.parameters.vector.detach()

    def _done(self, worker: int) -> bool:
        """The server has all rounds, and nothing can undo them any more; else the worker goes on, or looks whether."""
        entry = self.host.server.ledger.get(worker)
        return not self.left["crashes"] and entry is not None and entry.round == self.plan.rounds

    # What may happen between any two messages

    def step(self, worker: int) -> None:
        """One thing, while ``worker`` waits for an answer."""
        client = self.clients[worker]
        orphans = [each for each in self.service.desk.seats if each not in self._alive()]
        may = {
            self._hand: 6 * bool(self.to_desk), self._bring: 6 * bool(self.to_client),
            lambda: self.from_client(client, iter([(client.beat(), None)])): 1,
            lambda: self._expire(orphans): 0.3 * bool(orphans),
            self._lose: 2 * bool(self.left["losses"]), self._save: 0.5 * bool(self.left["saves"]),
            self._crash: 0.2 * bool(self.left["crashes"]), self._die: 0.2 * bool(self.left["deaths"]),
            lambda: self._expire([*self._alive()], "expiries"): 0.2 * bool(self.left["expiries"]),
        }  # fmt: skip
        self.chance.choices(list(may), list(may.values()))[0]()

    def _alive(self) -> set[int]:
        return {client.session for client in self.clients.values()}

    def _hand(self) -> None:
        self.port.desk.receive("peer", *self.to_desk.pop(0))

    def _bring(self) -> None:
        message, piece = self.to_client.pop(0)
        for client in self.clients.values():
            self.from_client(client, client.receive(message, piece))

    def _lose(self) -> None:
        """A message is lost, doubled, or overtaken by all others."""
        self.left["losses"] -= 1
        way = self.chance.choice([self.to_desk, self.to_client])
        if way:
            message = way.pop(self.chance.randrange(len(way)))
            way.extend(self.chance.choice([[], [message], [message, message]]))

    def _expire(self, sessions: list[int], counted: str | None = None) -> None:
        if counted:
            self.left[counted] -= 1
        if seats := [each for each in sessions if each in self.port.desk.seats]:
            self.port.desk.seats[self.chance.choice(seats)].heard = float("-inf")
            self.port.desk.look(0.0)

    def _save(self) -> None:
        self.left["saves"] -= 1
        state = copy.deepcopy(self.host.server.state_dict(0.0))
        self.disk = [*self.disk, state][-2:]
        self.host._saved({"server": state})

    def _crash(self) -> None:
        """The server is killed, and another one goes on from the last checkpoint that can be read."""
        self.left["crashes"] -= 1
        if self.plan.damage and len(self.disk) == 2 and self.chance.random() < 0.5:
            self.disk.pop()
        self._serve(self.disk[-1])

    def _die(self) -> None:
        self.left["deaths"] -= 1
        raise Died

    def _serve(self, state: dict | None) -> None:
        self.epoch += 1
        self.host, self.port = Host(self.plan, self.epoch, state), Port(self)
        self.to_desk: list[tuple] = []
        self.to_client: list[tuple] = []
        self.service = Service(self.host, self.port)
        self.service.pool.shutdown()
        self.service.pool = Now()

    # The network

    def from_desk(self, peer, message: Message, piece: memoryview | None) -> None:
        self.to_client.append((message, piece and memoryview(bytes(piece))))

    def from_client(self, client: Client, messages) -> None:
        self.to_desk += [(message, piece and memoryview(bytes(piece))) for message, piece in messages]
        client.sent()


class Caller:
    """In place of the one with a socket."""

    def __init__(self, run: Run, worker: int):
        self.run, self.worker = run, worker
        self._begin()

    def _begin(self) -> None:
        rooms = lambda sizes: [memoryview(bytearray(size)) for size in sizes]  # noqa: E731
        self.client = self.run.clients[self.worker] = self.run.plan.client(secrets.randbits(62), rooms)

    def call(self, body: bytes, vectors=(), anew: bool = False) -> tuple[bytes, list[memoryview]]:
        if anew:
            self._begin()
        client = self.client
        self.run.from_client(client, client.call(body, [memory(each) for each in vectors]))
        while client.answer is None:
            if client.lost:
                raise Anew("lost")
            if client.refused:
                raise CallRefused(client.refused)
            self.run.step(self.worker)
        return client.answer


class Life:
    """A process of a worker, as ``asgd.engines.star.roles`` has it."""

    def __init__(self, run: Run, worker: int):
        self.run, self.worker, self.epoch = run, worker, 0
        self.kept = Kept() if run.plan.durability == "update" else None
        self.line = Line(Caller(run, worker))
        self._welcomed()
        self._begin()

    def _begin(self) -> None:
        options = self.line, self.worker, "wire", 1
        kept = {"kept": self.kept, "renew": self._renew}
        self.exchange = DurableExchange(*options, **kept) if self.kept else StarExchange(*options)
        self.reply: Reply | None = None

    def _welcomed(self, anew: bool = False) -> None:
        welcome = self.line.hello(self.worker, 1e9, anew)
        assert welcome.epoch >= self.epoch
        self.epoch, self.round = welcome.epoch, self.kept.go_on(welcome.round) if self.kept else welcome.round

    def _renew(self) -> int:
        self._welcomed(anew=True)
        return self.round

    def step(self) -> None:
        """A round; or, once all are made, a look at the server, which may have lost some."""
        try:
            if self.reply is None:
                self.session = secrets.randbits(62)
                self.reply = self.exchange.join(self.worker, self.session)
            if self.round < self.run.plan.rounds:
                self._round()
            else:
                self.reply = None
        except Anew:
            self._renew()
            self._begin()

    def _round(self) -> None:
        model, round = self.reply.model, self.round
        self.run.computed[self.worker].append(round)
        payload = torch.zeros_like(model.params)
        payload[(self.worker - 1) * self.run.plan.rounds + round] = -1.0
        who = self.worker, self.session, round, model.version
        self.reply = self.exchange.push(Update(*who, payload, model.buffers.clone(), 0.5, None, 1))
        self.round = round + 1
