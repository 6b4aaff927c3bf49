"""Flat vectors over gloo: sent to a server and back, or reduced among the workers, who then all wait for each other.

A number behind the parameters says that its sender has enough, so no further message is needed to agree on the end.
"""

import threading

import torch
import torch.distributed as dist

from asgd.bench.trial import Meter
from asgd.bench.work import GRADIENT, check, sgd


def gradient(size: int) -> torch.Tensor:
    """[P + 1], the gradient and the mark of the end."""
    vector = torch.full((size + 1,), GRADIENT)
    vector[-1] = 0.0
    return vector


class Server:
    """Serves each worker in a thread; the step and the copy that is sent are made under a lock."""

    def __init__(self, size: int):
        self.vector, self.lock, self.steps = torch.nn.Parameter(torch.zeros(size)), threading.Lock(), 0
        self.optimizer = sgd([self.vector], fused=True)

    def serve(self, rank: int) -> None:
        """Receive, step, send, until the worker has enough."""
        inbox, outbox = torch.zeros(self.vector.numel() + 1), torch.empty_like(self.vector)
        while not inbox[-1]:
            dist.recv(inbox, rank)
            with self.lock:
                self.step(inbox[:-1])
                outbox.copy_(self.vector.data)
            dist.send(outbox, rank)

    def step(self, gradient: torch.Tensor) -> None:
        self.vector.grad = gradient
        self.optimizer.step()
        self.steps += 1


def serve(meter: Meter) -> None:
    workers = meter.load.workers
    dist.init_process_group("gloo", rank=0, world_size=workers + 1)
    server = Server(meter.load.size)
    threads = [threading.Thread(target=server.serve, args=(rank + 1,), daemon=True) for rank in range(workers)]
    for thread in threads:
        thread.start()
    meter.idle()
    for thread in threads:
        thread.join()
    check(server.steps, [server.vector.data], "server")


def send(meter: Meter) -> None:
    dist.init_process_group("gloo", rank=meter.rank, world_size=meter.load.workers + 1)
    outbox, model = gradient(meter.load.size), torch.empty(meter.load.size)

    def step(over: bool) -> bool:
        outbox[-1] = float(over)
        dist.send(outbox, 0)
        dist.recv(model, 0)
        return over

    meter.run(step)


def reduce(meter: Meter) -> None:
    """Each worker takes the same step on parameters of its own."""
    dist.init_process_group("gloo", rank=meter.rank - 1, world_size=meter.load.workers)
    vector, sums = torch.nn.Parameter(torch.zeros(meter.load.size)), gradient(meter.load.size)
    vector.grad, optimizer = sums[:-1], sgd([vector], fused=True)

    def step(over: bool) -> bool:
        sums[-1] = float(over)
        dist.all_reduce(sums)
        sums.div_(meter.load.workers)
        optimizer.step()
        return bool(sums[-1])

    check(meter.run(step), [vector.data], f"worker {meter.rank}")
