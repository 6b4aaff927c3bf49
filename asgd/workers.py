"""Workers: each turns a ``Model`` into an ``Update``. They know no time, no network and no other worker."""

from collections.abc import Callable, Iterator

import torch

from asgd.codecs import Codec
from asgd.data.batch import Batch
from asgd.messages import Model, Update, an_update
from asgd.precision import Precision
from asgd.seeds import torch_seed
from asgd.task import Gradient, Task, Work

NOTHING = torch.empty(0)
FULL = Precision()


class Worker:
    """``rank`` is 1..workers, ``session`` a fresh number for each life, ``round`` the first round of this life."""

    overlaps = True  # whether a round may begin before the last one is answered (``asgd.overlap``)
    lossy = True  # whether models may be rounded (``asgd.precision``)
    stateless = True  # an update depends on nothing but its model, round and batches
    vectors = 0  # [P] that a worker keeps from round to round

    def __init__(self, task: Task, rank: int, session: int, round: int = 0, seed: int = 0):
        self.task, self.rank, self.session, self.round, self.seed = task, rank, session, round, seed
        self.skipped = 0  # broken samples that the data left out
        self.batch: Batch | None = None  # the last one
        self.codec: Codec | None = None  # makes payloads smaller for the way
        self.weights = FULL  # of the models it is given

    def steps(self, round: int) -> int:
        """How many batches a round takes."""
        return 1

    def batches_before(self, round: int) -> int:
        """How many batches the rounds before it have taken."""
        return round

    def compute(self, model: Model, batches: Iterator[Batch]) -> Update:
        """The answer to ``model``, from the next of the ``batches``."""
        raise NotImplementedError

    def compress(self, codec: Codec) -> None:
        """Use a codec from now on. What it keeps and draws then depends on every payload."""
        self.codec, self.stateless = codec, False

    @property
    def bytes_sent(self) -> int:
        """In a round: the payload, or what a codec makes of it, and the buffers."""
        payload = self.task.params.nbytes if self.codec is None else self.codec.nbytes
        return payload + self.task.buffers.nbytes

    @property
    def bytes_received(self) -> int:
        """In a round: a model's parameters, as they are rounded, and its buffers."""
        return self.weights.nbytes(self.task.params) + self.task.buffers.nbytes

    def leave_out(self, model: Model, batches: Iterator[Batch]) -> Update:
        """The answer that will not be looked at: its batches are taken, and nothing is computed."""
        samples = sum(len(self.next(batches).targets) for _ in range(self.steps(self.round)))
        return self.update(model, NOTHING, NOTHING, None, None, samples)

    def next(self, batches: Iterator[Batch]) -> Batch:
        self.batch = next(batches)
        self.skipped += self.batch.skipped
        return self.batch

    def update(self, model: Model, payload, buffers, loss, correct, samples) -> Update:
        """This round's message; the next round begins."""
        if self.codec is not None:
            payload = self.codec.encode(payload)
        round, self.round = self.round, self.round + 1
        read = (self.batch.epoch, self.batch.index) if self.batch else None
        who = self.rank, self.session, round, model.version
        return an_update((*who, payload, buffers, loss, correct, samples, read, None, None))


class GradientWorker(Worker):
    """One gradient a round, at the parameters the server sent."""

    def compute(self, model: Model, batches: Iterator[Batch]) -> Update:
        gradient, buffers = self.task.solve(self.prepare(model, self.next(batches)))
        return self.answer(model, gradient, buffers)

    def prepare(self, model: Model, batch: Batch) -> Work:
        """What the round's gradient depends on; whoever computes it gives it to ``answer``."""
        return Work(model.params, model.buffers, batch, torch_seed(self.seed, "worker", self.rank, self.round))

    def answer(self, model: Model, gradient: Gradient, buffers: torch.Tensor) -> Update:
        return self.update(model, self.payload(gradient.payload), buffers, *gradient[1:])

    def payload(self, gradient: torch.Tensor) -> torch.Tensor:
        """[P], what the server is sent for a gradient [P]."""
        return gradient


class MomentumWorker(GradientWorker):
    """DANA-Slim: ``v <- gamma v + g``, and ``gamma v + g`` is sent; ``momentum`` is gamma, v [P] stays with the worker.

    Hakimi, Barkai, Gabel, Schuster 2019, arXiv:1907.11612.
    """

    stateless, vectors = False, 1
    overlaps = False  # gamma v stands for what its next step does to the parameters

    def __init__(self, *arguments, momentum: float, **keywords):
        super().__init__(*arguments, **keywords)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: from 0 to below 1")
        self.momentum = momentum
        self.velocity: torch.Tensor | float = 0.0  # v, before the first gradient

    def payload(self, gradient: torch.Tensor) -> torch.Tensor:
        self.velocity = torch.add(gradient, self.velocity, alpha=self.momentum)
        return torch.add(gradient, self.velocity, alpha=self.momentum)


class LocalStepsWorker(Worker):
    """``steps`` local optimizer steps; the payload is the view minus the result (Local SGD: Stich, ICLR 2019).

    The optimizer's state stays with the worker and is not averaged (as in Lin et al., ICLR 2020, arXiv:1808.07217).
    """

    stateless = False

    @property
    def vectors(self) -> int:
        """Of the local optimizer's state, as one step on a single number shows."""
        number = torch.nn.Parameter(torch.zeros(1))
        number.grad, optimizer = torch.zeros(1), self.make([number])
        optimizer.step()
        return sum(isinstance(each, torch.Tensor) and each.dim() > 0 for each in optimizer.state[number].values())

    def __init__(self, *arguments, steps: int, optimizer: Callable, **keywords):
        super().__init__(*arguments, **keywords)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps}: local steps per round, a whole number from 1 on")
        self.local_steps = steps
        self.vector = torch.nn.Parameter(self.task.params)
        self.make, self.optimizer = optimizer, optimizer([self.vector])

    def steps(self, round: int) -> int:
        return self.local_steps

    def batches_before(self, round: int) -> int:
        return round * self.local_steps

    def compute(self, model: Model, batches: Iterator[Batch]) -> Update:
        self.task.reseed(torch_seed(self.seed, "worker", self.rank, self.round))
        self.task.load(model.params, model.buffers)
        steps = [self.step(batches) for _ in range(self.steps(self.round))]
        payload = model.params - self.task.params.detach().cpu()
        return self.update(model, payload, self.task.buffers, *over(steps))

    def step(self, batches: Iterator[Batch]) -> Gradient:
        gradient = self.task.gradient(self.next(batches), stay=True)
        self.vector.grad = self.slope(gradient.payload)
        self.optimizer.step()
        return gradient

    def slope(self, gradient: torch.Tensor) -> torch.Tensor:
        """[P], what the optimizer is given for a gradient [P], both on the task's device."""
        return gradient


def over(steps: list[Gradient]) -> tuple[float, int | None, int]:
    """(mean loss over the samples, right answers or None, samples) of several steps."""
    samples = sum(step.samples for step in steps)
    loss = sum(step.loss * step.samples for step in steps) / samples
    return loss, None if steps[0].correct is None else sum(step.correct for step in steps), samples
