"""Several servers in this process, whose messages to each other arrive in an order that a random generator decides."""

import itertools
from functools import partial

from asgd.engines.divided import split
from asgd.engines.ordered import Follower, Leader
from asgd.engines.parts import joined, parts
from asgd.job import Job
from asgd.messages import Reply, Update

WHOLE = [slice(0, None)]


class Several:
    """Has the entrances of a server. ``deliver()`` is called at the end of each, unless ``patient`` is false."""

    def __init__(self, job: Job, count: int, generator, patient: bool = True):
        task = job.task("cpu")
        self.parts, self.sizes = (parts(task.params, count) if count > 1 else WHOLE), []
        self.servers = [job.server(task, part) for part in self.parts]
        self.sizes = [server.parameters.size for server in self.servers]
        self.generator, self.patient, self.now = generator, patient, 0.0
        self.numbers, self.bag = itertools.count(), []
        self.leader = Leader(self.servers[0], lambda: self.now, count - 1, self.say)
        self.followers = [
            Follower(server, partial(self.post, self.leader.arrived, rank))
            for rank, server in enumerate(self.servers[1:], start=2)
        ]
        self.hubs = [self.leader, *self.followers]
        self.coming: dict[int, list] = {}  # worker: its replies to come from each server
        self.observers = self.servers[0].observers

    def post(self, *call) -> None:
        """Something that will happen, some time."""
        self.bag.append(call)

    def say(self, *message) -> None:
        number = next(self.numbers)
        for follower in self.followers:
            self.post(follower.follow, number, *message)

    def step(self) -> None:
        """One of the messages that are under way arrives."""
        call, *arguments = self.bag.pop(int(self.generator.integers(len(self.bag))))
        call(*arguments)

    def deliver(self) -> list[Reply]:
        """All arrive; the replies that have come from every server."""
        while self.bag:
            self.step()
        return self.replies()

    def replies(self) -> list[Reply]:
        done = {
            w: futures for w, futures in self.coming.items() if None not in futures and all(f.done() for f in futures)
        }
        self.coming = {worker: futures for worker, futures in self.coming.items() if worker not in done}
        return [self.together([future.value() for future in done[worker]]) for worker in sorted(done)]

    def together(self, replies: list[Reply]) -> Reply:
        first, models = replies[0], [reply.model for reply in replies]
        if first.model is None:
            assert set(models) == {None}
            return first
        assert len({model.version for model in models}) == 1
        params = joined([model.params for model in models], self.sizes)
        return first._replace(model=first.model._replace(params=params))

    def send(self, worker: int, number: int, entrance: str, *content) -> None:
        """A worker's message for one of the servers comes there."""
        self.coming[worker][number] = getattr(self.hubs[number], entrance)(*content)

    def begin(self, worker: int, entrance: str, contents: list[tuple], only=None) -> None:
        """A worker sends a message to all servers, or to ``only`` some of them before it dies."""
        self.coming[worker] = [None] * len(self.hubs)
        for number, content in enumerate(contents):
            if only is None or number in only:
                self.post(self.send, worker, number, entrance, *content)

    def entered(self, now: float) -> list[Reply]:
        self.now = now
        return self.deliver() if self.patient else []

    def join(self, worker: int, session: int, now: float, only=None) -> list[Reply]:
        self.begin(worker, "join", [(worker, session)] * len(self.hubs), only)
        return self.entered(now)

    def push(self, update: Update, now: float, only=None) -> list[Reply]:
        self.begin(update.worker, "push", [(each,) for each in split(update, self.parts)], only)
        return self.entered(now)

    def leave(self, worker: int, now: float) -> list[Reply]:
        self.coming.pop(worker, None)
        self.now = now
        self.leader.leave(worker)
        return self.entered(now)

    def tick(self, now: float) -> list[Reply]:
        self.now = now
        self.leader.tick()
        return self.entered(now)

    def state_dict(self, now: float) -> dict:
        """Put together, as a checkpoint has it."""
        return joined([server.state_dict(now) for server in self.servers], self.sizes)

    def snapshot(self):
        models = [server.snapshot() for server in self.servers]
        return models[0]._replace(params=joined([model.params for model in models], self.sizes))

    @property
    def version(self) -> int:
        versions = {server.version for server in self.servers}
        assert len(versions) == 1
        return versions.pop()

    @property
    def ended(self) -> str | None:
        ended = {server.ended for server in self.servers}
        assert len(ended) == 1
        return ended.pop()
