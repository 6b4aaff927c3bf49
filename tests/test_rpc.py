"""What torch.distributed.rpc does to a parameter server that does not respect it, and that ours does."""

import itertools
import os
import threading
import traceback
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.multiprocessing as multiprocessing

from asgd.budget import Budget
from asgd.buffers import Latest
from asgd.engines import lanes, rendezvous, rpc
from asgd.engines.hub import Hub
from asgd.engines.mail import Mail
from asgd.messages import Update
from asgd.parameters import Parameters
from asgd.policies import Immediate
from asgd.rules import MeanOfUpdates
from asgd.schedules import Constant
from asgd.server import Server
from asgd.weights import Constant as One

SIZE = int(os.environ.get("NUMBERS", 2_000_000))  # 8 MB: a reply is still on its way when the next update comes
PULLS = 20


def make_server(workers: int) -> Server:
    """Each update of ones lowers every parameter by exactly 1."""
    parameters = Parameters(torch.zeros(SIZE), lambda p: torch.optim.SGD(p, lr=1.0), Constant())
    rule, policy = MeanOfUpdates(1), Immediate()
    return Server(parameters, Latest(torch.empty(0)), rule, One(), policy, Budget(updates=10**7), workers)


def ones(round: int, worker: int = 1) -> Update:
    return Update(worker, 7, round, 0, torch.ones(SIZE), torch.empty(0), 0.0, 0, 1)


class Served(Mail):
    """The hub's exchanges, and the same done naively."""

    def __init__(self, workers: int):
        self.server = make_server(workers)
        super().__init__(Hub(self.server, lambda: 0.0))
        self.live, self.applied = self.server.parameters.vector.detach(), 0
        self.over, self.busy = threading.Event(), None

    def live_in_block(self) -> None:
        """The careless way: the parameters themselves, which are written to, lie where the worker reads."""
        self.live = self.lent[1][-1]

    def naive_pull(self) -> torch.Tensor:
        return self.live

    def naive_send(self) -> None:
        """By the connection of worker 1."""
        self.lanes[1].send_later([self.live])

    def naive_push(self, gradient) -> int:
        """Applies whatever comes; answers how often it has."""
        self.applied += 1
        return self.applied

    def write(self, naively: bool) -> None:
        """From now on worker 2's updates come all the time."""
        self.busy = threading.Thread(target=self._write_naively if naively else self._push)
        self.busy.start()

    def rest(self) -> None:
        self.over.set()
        self.busy.join()

    def _write_naively(self) -> None:
        while not self.over.is_set():
            self.live.sub_(1.0)

    def _push(self) -> None:
        self.hub.join(2, 7).wait()
        for round in itertools.takewhile(lambda _: not self.over.is_set(), itertools.count()):
            self.hub.push(ones(round, worker=2)).wait()

    def count(self) -> dict:
        return {"version": self.server.version, "applied": self.server.counts["applied"]}


def serve(listener, done, workers):
    torch.set_num_threads(1)
    store = rpc.open_store("127.0.0.1", listener.getsockname()[1], listener)
    rpc.connect("ps", 0, Served(workers), store, rendezvous.interface_to("127.0.0.1"), threads=4)
    store.set(rpc.READY, "1")
    done.wait()
    rpc.disconnect()


def client(port, results, scenario):
    torch.set_num_threads(1)
    store = rpc.find_store("127.0.0.1", port, 60)
    rpc.connect("worker1", 1, None, store, rendezvous.interface_to("127.0.0.1"), threads=2)
    try:
        results.put(SCENARIOS[scenario]())
    except Exception:
        results.put(traceback.format_exc())
    finally:
        rpc.disconnect()


def ask(method, *arguments):
    return rpc.result(rpc.call("ps", method, *arguments))


def is_torn(tensor: torch.Tensor) -> bool:
    return bool(tensor.min() != tensor.max())


def naive_pulls() -> int:
    """How many of the live tensors that come over are a mix of versions."""
    ask("write", True)
    torn = sum(is_torn(ask("naive_pull")) for _ in range(PULLS))
    ask("rest")
    return torn


def naive_block() -> int:
    """How many looks at a block that the server goes on writing to see a mix of versions."""
    params = attached("shared").join(1, 7).model.params
    ask("live_in_block")
    ask("write", True)
    torn = sum(is_torn(params.clone()) for _ in range(PULLS))
    ask("rest")
    return torn


def naive_lane() -> int:
    """How many live vectors that come over the connection are a mix of versions."""
    exchange = attached("wire")
    ask("write", True)
    torn = 0
    for _ in range(PULLS):
        ask("naive_send")
        torn += is_torn(exchange.lane.receive(lanes.Hole(torch.float32, SIZE)))
    ask("rest")
    return torn


def attached(payload) -> rpc.RpcExchange:
    exchange = rpc.RpcExchange(1, payload)
    here = {"pin": lambda vector, **_: vector, "allocate": None}  # as on a CPU
    exchange.attach(SimpleNamespace(params=torch.zeros(SIZE), outbox=None, **here))
    assert (exchange.outbox is not None) == (payload == "shared")
    return exchange


def exchanges(payload, pulls=PULLS) -> dict:
    """The same with the hub, which worker 2 keeps busy; each version v is all -v."""
    exchange, torn = attached(payload), 0
    ask("write", False)
    model = exchange.join(1, 7).model
    for round in range(pulls):
        torn += is_torn(model.params) or model.params[0].item() != -model.version
        model = exchange.push(ones(round)).model
    ask("rest")
    return {"torn": torn, "others_came_between": model.version > pulls}


def wire() -> dict:
    return exchanges("wire")


def shared() -> dict:
    return exchanges("shared", 200)


def shared_long() -> dict:
    return exchanges("shared", 10_000)


def naive_retry() -> int:
    """A push whose answer is not waited for, sent again: the time-out has cancelled nothing."""
    first = torch.distributed.rpc.rpc_async("ps", rpc._run, ("naive_push", torch.ones(SIZE)), timeout=0.002)
    with pytest.raises(RuntimeError, match=r"timeout|timed out"):
        first.wait()
    return ask("naive_push", torch.ones(SIZE))


def retry() -> dict:
    attached("wire").join(1, 7)
    first = torch.distributed.rpc.rpc_async("ps", rpc._run_later, ("push", ones(0)), timeout=0.002)
    with pytest.raises(RuntimeError, match=r"timeout|timed out"):
        first.wait()
    replies = [attached("wire").push(ones(0)) for _ in range(2)]
    assert torch.equal(replies[0].model.params, replies[1].model.params)
    return ask("count") | {"value": replies[1].model.params.unique().tolist()}


SCENARIOS = {
    each.__name__: each
    for each in (naive_pulls, naive_block, naive_lane, wire, shared, shared_long, naive_retry, retry)
}


def play(scenario: str, workers: int = 1):
    """Run a scenario in a process of its own against a server in another."""
    context = multiprocessing.get_context("spawn")
    listener, done, results = rendezvous.listen("127.0.0.1", 0), context.Event(), context.Queue()
    port = listener.getsockname()[1]
    nodes = [
        context.Process(target=serve, args=(listener, done, workers)),
        context.Process(target=client, args=(port, results, scenario)),
    ]
    for node in nodes:
        node.start()
    try:
        return results.get(timeout=500)
    finally:
        done.set()
        for node in nodes:
            node.join(20)
            node.kill()
        listener.close()
        results.close()


@pytest.mark.parametrize(
    "way",
    [
        "naive_pulls",
        pytest.param("naive_block", marks=pytest.mark.slow),
        pytest.param("naive_lane", marks=pytest.mark.slow),
    ],
)
def test_live_parameters_are_torn(way):
    assert play(way) > 0


@pytest.mark.parametrize(
    "payload", ["wire", "shared", pytest.param("shared_long", marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_a_reply_of_the_hub_is_never_torn(payload, monkeypatch):
    if payload == "shared_long":
        monkeypatch.setenv("NUMBERS", "250_000")  # in the processes; 1 MB each, or it takes ten minutes
    assert play(payload, workers=2) == {"torn": 0, "others_came_between": True}


def test_a_retried_push_is_applied_twice_by_a_naive_server():
    assert play("naive_retry") == 2


def test_a_retried_push_is_applied_once():
    assert play("retry") == {"version": 1, "applied": 1, "value": [-1.0]}


def test_every_port_of_a_run_is_bound_to_loopback(start):
    run = start("budget.epochs=null", "budget.seconds=60", "evaluate.every=20")
    run.until(lambda: len(run.rows("ps/evaluation.csv")) > 0)
    ports = [each for process in run.processes() for each in process.net_connections("inet")]
    listening = [each.laddr.ip for each in ports if each.status == psutil.CONN_LISTEN]
    assert len(listening) >= 5 and set(listening) <= {"127.0.0.1", "::1"}
