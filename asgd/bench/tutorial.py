"""The way of the tutorials over torch's RPC: a state dict out, a list of gradients in, ``torch.optim.SGD`` and a lock.

The state dict holds the parameters themselves, which are sent while others' steps change them: what a worker gets may
be a mix of versions, so only the server's parameters are checked.
"""

import threading
import warnings

from torch import Tensor, nn
from torch.distributed import rpc

from asgd.bench.trial import Meter
from asgd.bench.work import GRADIENT, Load, check, make, sgd

warnings.filterwarnings("ignore", message=".*ProcessGroupGloo")  # init_rpc's own
SOCKETS = {"_transports": ["uv"], "_channels": ["basic"]}  # what TensorPipe has between hosts

_server: "ParameterServer"  # in the server's process; calls find it here


class ParameterServer:
    def __init__(self, load: Load):
        self.model = nn.ParameterList(make(load, 0.0))
        self.optimizer = sgd(self.model.parameters())
        self.lock, self.steps = threading.Lock(), 0

    def pull(self) -> dict[str, Tensor]:
        with self.lock:
            return self.model.state_dict()

    def push(self, gradients: list[Tensor]) -> None:
        with self.lock:
            for parameter, gradient in zip(self.model, gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
            self.steps += 1


def pull() -> dict[str, Tensor]:
    return _server.pull()


def push(gradients: list[Tensor]) -> None:
    _server.push(gradients)


def connect(meter: Meter, name: str, transport: dict) -> None:
    """``transport``: options of TensorPipe; without any it reads the other process's memory where it can."""
    options = rpc.TensorPipeRpcBackendOptions(**transport)
    rpc.init_rpc(name, rank=meter.rank, world_size=meter.load.workers + 1, rpc_backend_options=options)


def serve(meter: Meter, **transport) -> None:
    global _server
    _server = ParameterServer(meter.load)
    connect(meter, "ps", transport)
    meter.idle()
    check(_server.steps, list(_server.model), "server")


def work(meter: Meter, **transport) -> None:
    connect(meter, f"worker{meter.rank}", transport)
    gradients = make(meter.load, GRADIENT)

    def step(over: bool) -> bool:
        rpc.rpc_sync("ps", pull)
        rpc.rpc_sync("ps", push, (gradients,))
        return over

    meter.run(step)
