"""Elastic averaging: workers keep replicas of their own, tied to the server's parameters by a spring.

Zhang, Choromanska, LeCun, "Deep learning with Elastic Averaging SGD", NeurIPS 2015, arXiv:1412.6651.
"""

from collections.abc import Iterator

import torch

from asgd.data.batch import Batch
from asgd.messages import Model, Update
from asgd.mixing import moving_rate
from asgd.seeds import torch_seed
from asgd.task import Gradient
from asgd.workers import LocalStepsWorker, over


class ElasticWorker(LocalStepsWorker):
    """EASGD (Algorithm 1): ``steps`` local steps, then the replica x_i is pushed.

    The server moves its centre c by ``e = alpha (x_i - c)`` and answers with the new one, from which the worker has
    e = alpha / (1 - alpha) (x_i - c_new). Its next step takes its gradient at that same x_i, and then it lets go of e:
    x_i <- x_i - eta g(x_i) - e. So x_i + c is what it was before the exchange, but for that step. The first model of
    a life becomes the replica. The server (``mixing.Attract``) has to know the same ``beta`` and ``workers``.
    """

    overlaps = False  # the next round begins at what the last one's answer says of the centre
    lossy = False  # what the server adds to the centre, the worker has to take from its replica

    @property
    def vectors(self) -> int:
        """The local optimizer's and the replica."""
        return super().vectors + 1

    def __init__(self, *arguments, beta: float, workers: int, **keywords):
        super().__init__(*arguments, **keywords)
        self.alpha = moving_rate(beta, workers)
        self.replica: torch.Tensor | None = None  # x_i as it was pushed, [P]

    def compute(self, model: Model, batches: Iterator[Batch]) -> Update:
        replica = model.params if self.replica is None else self.replica
        pull = (replica - model.params).mul_(self.alpha / (1 - self.alpha)).to(self.task.device)  # e
        self.task.reseed(torch_seed(self.seed, "worker", self.rank, self.round))
        self.task.load(replica, model.buffers)
        steps = [self.step(batches)]
        self.task.params.sub_(pull)
        steps += [self.step(batches) for _ in range(self.steps(self.round) - 1)]
        self.replica = self.task.params.to("cpu", copy=True)
        return self.update(model, self.replica, self.task.buffers, *over(steps))


class MomentumElasticWorker(ElasticWorker):
    """EAMSGD (Algorithm 2): Nesterov's momentum at the worker, ``v <- delta v - eta g(x_i + delta v); x_i <- x_i + v``.

    ``momentum`` is delta; ``optimizer`` makes the step along g, so give it no momentum of its own. v [P] stays here.
    """

    @property
    def vectors(self) -> int:
        """Those of ElasticWorker and v."""
        return super().vectors + 1

    def __init__(self, *arguments, momentum: float, **keywords):
        super().__init__(*arguments, **keywords)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: from 0 to below 1")
        self.momentum, self.velocity = momentum, torch.zeros_like(self.task.params)

    def step(self, batches: Iterator[Batch]) -> Gradient:
        self.velocity.mul_(self.momentum)
        ahead = self.task.params.add_(self.velocity).clone()
        gradient = super().step(batches)
        self.velocity.add_(self.task.params - ahead)
        return gradient
