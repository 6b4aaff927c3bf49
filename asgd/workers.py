"""Workers: each turns a ``Model`` into an ``Update``. They know no time, no network and no other worker."""

from collections.abc import Callable, Iterator

import torch

from asgd.data.batch import Batch
from asgd.messages import Model, Update
from asgd.seeds import torch_seed
from asgd.task import Task


class GradientWorker:
    """One gradient a round, at the parameters the server sent.

    ``rank`` is 1..workers, ``session`` a fresh number for each life, ``round`` the first round of this life.
    """

    batches_per_round = 1

    def __init__(self, task: Task, rank: int, session: int, round: int = 0, seed: int = 0):
        self.task, self.rank, self.session, self.round, self.seed = task, rank, session, round, seed
        self.skipped = 0  # broken samples that the data left out
        self.batch: Batch | None = None  # the last one

    def compute(self, model: Model, batches: Iterator[Batch]) -> Update:
        """The answer to ``model``, from the next of the ``batches``."""
        self.task.reseed(torch_seed(self.seed, "worker", self.rank, self.round))
        self.task.load(model.params, model.buffers)
        payload, loss, correct, samples = self.work(model, batches)
        round, self.round = self.round, self.round + 1
        buffers = self.task.buffers
        return Update(self.rank, self.session, round, model.version, payload, buffers, loss, correct, samples)

    def work(self, model: Model, batches: Iterator[Batch]) -> tuple:
        """(payload [P], mean loss, correct or None, samples)."""
        return self.task.gradient(self.next(batches))

    def next(self, batches: Iterator[Batch]) -> Batch:
        self.batch = next(batches)
        self.skipped += self.batch.skipped
        return self.batch


class LocalStepsWorker(GradientWorker):
    """``steps`` local optimizer steps; the payload is the view minus the result (Local SGD: Stich, ICLR 2019).

    The optimizer's state stays with the worker and is not averaged (as in Lin et al., ICLR 2020, arXiv:1808.07217).
    """

    def __init__(
        self, task: Task, rank: int, session: int, round: int = 0, seed: int = 0, *, steps: int, optimizer: Callable
    ):
        super().__init__(task, rank, session, round, seed)
        if steps < 1:
            raise ValueError(f"steps={steps}: local steps per round, 1 or more")
        self.batches_per_round = steps
        self.vector = torch.nn.Parameter(task.params)
        self.optimizer = optimizer([self.vector])

    def work(self, model: Model, batches: Iterator[Batch]) -> tuple:
        steps = [self.step(batches) for _ in range(self.batches_per_round)]
        samples = sum(step.samples for step in steps)
        loss = sum(step.loss * step.samples for step in steps) / samples
        correct = None if steps[0].correct is None else sum(step.correct for step in steps)
        return model.params - self.task.params.detach().cpu(), loss, correct, samples

    def step(self, batches: Iterator[Batch]):
        gradient = self.task.gradient(self.next(batches))
        self.vector.grad = gradient.payload.to(self.vector.device)
        self.optimizer.step()
        return gradient
