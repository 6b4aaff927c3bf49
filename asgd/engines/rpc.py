"""``torch.distributed.rpc`` (TensorPipe): how nodes join one RPC group and call each other. Only this file knows it.

What must be respected: a reply is sent after its handler has returned, so only immutable snapshots go out; a time-out
cancels nothing, so exchanges have none and a dead peer is noticed by the call that stays open to it (``lifeline``);
a dead peer makes a graceful shutdown hang for ever, so everybody says goodbye and then just closes.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from socket import socket

import torch.distributed as dist
from torch import Tensor
from torch.distributed import rpc
from torch.distributed.rendezvous import register_rendezvous_handler
from torch.futures import Future, collect_all

from asgd.codecs.base import Encoded
from asgd.engines import lanes, rendezvous, shared
from asgd.messages import Reply, Update
from asgd.task import Task

FOREVER = 0  # seconds; TensorPipe takes 0 for no limit
PREFIX = f"asgd{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}"
READY = "ready"
RAISED = "On WorkerInfo", "error when running the callback"  # in what comes of an exception at the other end

_service: object = None  # what others may call on this node
_store: dist.Store | None = None
register_rendezvous_handler("asgd", lambda url, **_: iter([(_store, -1, -1)]))


class Lost(ConnectionError):
    """The other end is gone."""


# The store: a small table that everybody can read before the group exists


def open_store(host: str, port: int, listener: socket | None) -> dist.Store:
    """The server's store, on its own listening socket; without one, that of the launcher at ``port`` (torchrun)."""
    own = {} if listener is None else {"is_master": True, "master_listen_fd": listener.detach()}
    store = dist.TCPStore(host, port, wait_for_workers=False, timeout=timedelta(seconds=60), **own)
    return dist.PrefixStore(PREFIX, store)


def find_store(host: str, port: int, timeout: float) -> dist.Store:
    """The store of a server, once the server is ready. TimeoutError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    rendezvous.wait_for_server(host, port, timeout)
    store = open_store(host, port, None)
    wait_for(store, READY, deadline - time.monotonic(), f"the server at {host}:{port} did not get ready")
    return store


def wait_for(store: dist.Store, key: str, timeout: float, failure: str) -> None:
    """Until somebody has set ``key``. TimeoutError, which says the ``failure``, after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not _is_set(store, key):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{failure} within {timeout:g} s")
        time.sleep(0.05)


def _is_set(store: dist.Store, key: str) -> bool:
    try:
        return store.check([key])
    except dist.DistNetworkError as error:
        raise Lost(f"the server is gone ({error})") from None


# The group


def connect(name: str, rank: int, service: object, store: dist.Store, interface: str, threads: int) -> None:
    """Join the RPC group as ``name`` and let the others call ``service``'s methods. One port, no busy polling."""
    global _service, _store
    _service, _store = service, store
    os.environ["TP_SOCKET_IFNAME"] = interface
    options = rpc.TensorPipeRpcBackendOptions(
        init_method="asgd://store", num_worker_threads=threads, _transports=["uv"], _channels=["basic"]
    )
    rpc.init_rpc(name, rank=rank, rpc_backend_options=options)


def address() -> str:
    """Where this node listens."""
    return rendezvous.address_of(os.environ["TP_SOCKET_IFNAME"])


def disconnect() -> None:
    """Leave the group without waiting for anybody."""
    rpc.shutdown(graceful=False)


# Calls


def _run(method: str, *arguments):
    return getattr(_service, method)(*arguments)


@rpc.functions.async_execution
def _run_later(method: str, *arguments) -> Future:
    return getattr(_service, method)(*arguments)


def call(node: str, method: str, *arguments) -> Future:
    """Call a method of the node's service."""
    return rpc.rpc_async(node, _run, (method, *arguments), timeout=FOREVER)


def call_later(node: str, method: str, *arguments) -> Future:
    """Call a method that returns a future; the reply is sent when that is done, and no thread waits for it."""
    return rpc.rpc_async(node, _run_later, (method, *arguments), timeout=FOREVER)


def result(future: Future):
    """Wait so that Ctrl-C is heard. Lost when the connection broke; what the other end raised is raised here."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait()
    return value(future)


def results(futures: list[Future]) -> list:
    """Those of all; as soon as one has failed, that is raised."""
    result(collect_all(futures))
    return [value(future) for future in futures]


def value(future: Future):
    """As ``result``, of a future that is done."""
    try:
        found = future.value()
    except RuntimeError as error:
        if type(error) is RuntimeError and not any(words in str(error) for words in RAISED):
            raise Lost(f"the other node is gone ({str(error).partition(' (this error')[0]})") from error
        raise
    if isinstance(found, Exception):  # so comes what was set as the exception of a future there
        raise found
    return found


def when_lost(node: str, action: Callable[[str], None]) -> None:
    """Keep a call open to ``node``, whose service has ``lifeline``; ``action(reason)`` when it breaks."""

    def broken(future: Future) -> None:
        try:
            future.value()
        except Exception as error:
            action(str(error).partition(" (this error")[0])

    call_later(node, "lifeline").add_done_callback(broken)


class RpcExchange:
    """Worker ``rank``'s way to a server. ``payload``: see ``asgd.engines.shared.connect``.

    ``held``: how many of the models it was last given the worker may still read.
    """

    def __init__(self, rank: int, payload: str, node: str = "ps", held: int = 1):
        self.rank, self.payload, self.node, self.held = rank, payload, node, held
        self.outbox: Tensor | None = None
        self.views = shared.Views()
        self.lane: lanes.Lane | None = None

    def attach(self, task: Task) -> None:
        """Parameters and gradients of this task are what will be exchanged."""
        self.views = shared.Views(partial(task.pin, writable=False))
        self.outbox = task.outbox = task.pin(shared.connect(self.payload, task.params, self.offer))
        if self.outbox is None:
            self.open_lane(task.params.nbytes, task.allocate)

    def open_lane(self, nbytes: int, allocate: Callable[[Tensor], Tensor] | None = None) -> None:
        """A connection for vectors, where the parameters are so many bytes that it pays; received in ``allocate``'s."""
        if nbytes >= lanes.LARGE:
            self.lane = lanes.connect(result(call(self.node, "open_door", self.rank)), allocate)
            result(call(self.node, "let_in", self.rank))

    def offer(self, place: shared.Place) -> bool:
        """Whether the server sees memory of this worker, and this worker memory of the server."""
        there = result(call(self.node, "share", self.rank, place, self.held))
        if there is None or self.views.of(there) is not None:
            return there is not None
        result(call(self.node, "forget", self.rank))
        return False

    def join(self, worker: int, session: int) -> Reply:
        return self.completed(result(self.begin_join(worker, session)))

    def push(self, update: Update) -> Reply:
        return self.completed(result(self.begin_push(update)))

    def begin_join(self, worker: int, session: int) -> Future:
        return call_later(self.node, "join", worker, session)

    def begin_push(self, update: Update) -> Future:
        """The call goes before the vectors, so that the server is there to receive them."""
        payload, vectors = self._sent(update.payload)
        coming = call_later(self.node, "push", update._replace(payload=payload))
        with suppress(OSError):  # the server is gone or does not take them, which the call will say
            if self.lane:
                self.lane.send(vectors)
        return coming

    def _sent(self, payload: Tensor | Encoded) -> tuple[Tensor | Encoded | lanes.Hole | None, list[Tensor]]:
        """What RPC carries of a payload, and what goes beside it. Of a view RPC would carry all of the memory."""
        if self.lane:
            return lanes.apart(payload)
        if not isinstance(payload, Tensor):
            return payload, []
        if self.outbox is not None:
            shared.carry(payload, self.outbox)
            return None, []
        return (payload if payload.untyped_storage().nbytes() == payload.nbytes else payload.clone()), []

    def completed(self, reply: Reply) -> Reply:
        if reply.model and (self.outbox is not None or self.lane):
            reply = reply._replace(model=reply.model._replace(params=self._found(reply.model.params)))
        return reply

    def _found(self, params: shared.Place | lanes.Hole | Tensor) -> Tensor:
        """The parameters of a reply, where they lie or as they come."""
        if self.lane:
            try:
                return lanes.whole(params, self.lane)
            except OSError as error:
                raise Lost(f"the server is gone ({error})") from error
        if (found := self.views.of(params)) is None:
            raise Lost("the server's memory cannot be seen any more")
        return found
