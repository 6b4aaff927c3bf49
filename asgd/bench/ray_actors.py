"""A parameter server as an actor of Ray: as in Ray's own example, and with one flat array each way.

Ray passes arrays through a store in shared memory: who reads them copies nothing, who puts them there copies once. The
processes of a Ray node that is started for the trial are counted as the server's.
"""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import psutil
import torch
from torch import Tensor

from asgd.bench.trial import HOST, Meter
from asgd.bench.work import GRADIENT, Load, check, make, sgd
from asgd.engines import rpc

NAME, PLACE = "server", "ray"
OPTIONS = {"namespace": "bench", "log_to_driver": False, "logging_level": logging.ERROR}
COPIES = 4  # of a model for each process, that may be in the store at the same time


class Example:
    """Weights go out as a dict of tensors, gradients come as a list of arrays."""

    def __init__(self, load: Load):
        self.parameters, self.steps = [torch.nn.Parameter(each) for each in make(load, 0.0)], 0
        self.optimizer = sgd(self.parameters)

    def weights(self) -> dict[str, Tensor]:
        return {str(number): each.data for number, each in enumerate(self.parameters)}

    def push(self, gradients: list[np.ndarray]) -> dict[str, Tensor]:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        self.optimizer.step()
        self.steps += 1
        return self.weights()

    def check(self) -> None:
        check(self.steps, [each.data for each in self.parameters], "server")


class Flat(Example):
    """One array each way, and torch's fused step."""

    def __init__(self, load: Load):
        self.parameters, self.steps = [torch.nn.Parameter(torch.zeros(load.size))], 0
        self.optimizer = sgd(self.parameters, fused=True)

    def weights(self) -> np.ndarray:
        return self.parameters[0].data.numpy()

    def push(self, gradient: np.ndarray) -> np.ndarray:
        self.parameters[0].grad = torch.from_numpy(gradient)  # read only, as the warning says; so is the step's use
        self.optimizer.step()
        self.steps += 1
        return self.weights()


def prepare(token: str) -> None:
    """Before ray is imported: who talks to the node needs the ``token``; nobody else is told anything."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


@contextmanager
def node(load: Load) -> Iterator[str]:
    """The address of a Ray node of our own, which is gone at the end."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        store = max(1 << 28, COPIES * 4 * load.size * (load.workers + 1))  # bytes
        context = ray.init(num_cpus=1, object_store_memory=store, _node_ip_address=HOST, _temp_dir=folder,
                           include_dashboard=False, **OPTIONS)  # fmt: skip
        try:
            yield context.address_info["gcs_address"]
        finally:
            ray.shutdown()


def serve(meter: Meter, actor: type[Example]) -> None:
    store, token = rpc.open_store(HOST, meter.port, None), secrets.token_hex(16)
    prepare(token)
    import ray

    with node(meter.load) as address:
        server = ray.remote(actor).options(name=NAME).remote(meter.load)
        ray.get(server.weights.remote())
        store.set(PLACE, f"{address} {token}")
        meter.used = of_all_below
        meter.idle()
        ray.get(server.check.remote())


def of_all_below() -> float:
    """CPU seconds of this process and of those that it and they have started."""
    times = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times.append(process.cpu_times())
    return sum(each.user + each.system for each in times)


def work(meter: Meter, flat: bool) -> None:
    address, token = rpc.open_store(HOST, meter.port, None).get(PLACE).decode().split()  # waits for it
    prepare(token)
    import ray

    ray.init(address=address, **OPTIONS)
    server, gradients = ray.get_actor(NAME), [each.numpy() for each in make(meter.load, GRADIENT)]
    payload = np.concatenate([each.reshape(-1) for each in gradients]) if flat else gradients

    def step(over: bool) -> bool:
        ray.get(server.push.remote(payload))
        return over

    meter.run(step)
