"""A connection for vectors: who is let in, what comes over, whose memory it is, and what is left when it ends."""

import os
import socket
import threading
from types import SimpleNamespace

import psutil
import pytest
import torch

from asgd.codecs.base import Encoded
from asgd.engines import lanes
from asgd.engines.hub import Hub
from asgd.engines.mail import Mail
from asgd.ledger import ProtocolError
from asgd.messages import Update
from tests.scripted import a_server

SIZE = 1_200_000  # 4.8 MB: more than a connection holds by itself, and a block of its own


@pytest.fixture
def pair():
    """A server's and a worker's end of one connection."""
    near, far = opened()
    yield near, far
    near.close(), far.close()


def opened(most=None) -> tuple[lanes.Lane, lanes.Lane]:
    door = lanes.Door("127.0.0.1")
    worker = lanes.connect(door.way)
    return lanes.Lane(door.let_in(), most), worker


def hole(vector: torch.Tensor) -> lanes.Hole:
    return lanes.Hole(vector.dtype, vector.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32])
def test_a_vector_comes_as_it_was_sent(pair, dtype):
    vector = torch.arange(SIZE).to(dtype)
    pair[0].send_later([vector, vector[:7]])
    assert torch.equal(pair[1].receive(hole(vector)), vector)
    assert torch.equal(pair[1].receive(lanes.Hole(dtype, 7)), vector[:7])


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="this system has one way only")
def test_nothing_is_paced_within_a_host(pair):
    for end in pair:
        assert end.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"


def test_only_what_is_large_leaves_the_message(pair):
    large, small = torch.rand(lanes.LARGE // 4), torch.rand(lanes.LARGE // 4 - 1)
    cases = (large, 1), (small, 0), (Encoded((small, large, large.half(), large.double())), 2), (Encoded(()), 0)
    for payload, holes in cases:
        left, vectors = lanes.apart(payload)
        assert len(vectors) == sum(isinstance(each, lanes.Hole) for each in parts(left)) == holes
        pair[0].send_later(vectors)
        found = lanes.whole(left, pair[1])
        assert all(torch.equal(*each) for each in zip(parts(found), parts(payload), strict=True))
        assert type(found) is type(payload)


def parts(payload) -> tuple:
    return payload.parts if isinstance(payload, Encoded) else (payload,)


def test_memory_is_used_again_once_nobody_has_it(pair):
    vector = torch.zeros(SIZE)
    places, held = [], []
    for number in range(6):
        pair[0].send_later([vector + number])
        received = pair[1].receive(hole(vector))
        places.append(received.data_ptr())
        held.append(received[:3])  # a view keeps the whole
        del received
        if number >= 2:
            held.pop(0)
        assert [each[0].item() for each in held] == list(range(number + 1 - len(held), number + 1))
    assert len(set(places)) == 3


def test_only_who_knows_the_token_is_let_in_and_then_nobody_listens():
    door = lanes.Door("127.0.0.1")
    strangers = [socket.create_connection(door.way[:2]) for _ in range(2)]
    strangers[0].sendall(b"x" * lanes.TOKEN)
    strangers[1].shutdown(socket.SHUT_WR)
    found = {}
    letting = threading.Thread(target=lambda: found.update(connection=door.let_in()))
    letting.start()
    worker = lanes.connect(door.way)
    letting.join()
    assert [each.recv(1) for each in strangers] == [b"", b""]
    assert found["connection"].getpeername() == worker.connection.getsockname()
    with pytest.raises(ConnectionError, match=f"port {door.way.port} at 127.0.0.1 cannot be reached"):
        lanes.connect(door.way)
    worker.close(), found["connection"].close()
    for each in strangers:
        each.close()


def test_a_door_that_nobody_comes_to_is_closed(monkeypatch):
    monkeypatch.setattr(lanes, "SECONDS", 0.01)
    door = lanes.Door("127.0.0.1")
    with pytest.raises(TimeoutError):
        door.let_in()
    assert door.listener.fileno() == -1


def test_more_than_was_agreed_is_not_received():
    near, far = opened(most=100_000)
    with pytest.raises(ValueError, match=r"100,004 bytes where at most 100,000"):
        near.receive(lanes.Hole(torch.float32, 25_001))
    with pytest.raises(ConnectionResetError):
        far.receive(lanes.Hole(torch.float32, 1))
    far.close()


def test_who_waits_for_a_vector_is_told_that_the_other_end_is_gone():
    near, far = opened()
    far.connection.sendall(bytes(1000))
    far.close()
    with pytest.raises(ConnectionResetError):
        near.receive(lanes.Hole(torch.float32, SIZE))
    near.close()


class Post(Mail):
    """The server's side, as calls reach it."""

    def __init__(self):
        super().__init__(Hub(a_server(1, initial=torch.zeros(SIZE)), lambda: 0.0))

    def open_door(self, rank: int) -> lanes.Way:
        self.doors[rank] = door = lanes.Door("127.0.0.1")
        return door.way

    def come(self, rank: int = 1) -> lanes.Lane:
        lane = lanes.connect(self.open_door(rank))
        self.let_in(rank)
        return lane


def left() -> tuple[int, int]:
    """Open descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_is_left_of_many_workers_that_come_and_die(count):
    """In the middle of a payload, of a reply that nobody reads, and as they should."""
    post, payload = Post(), torch.ones(SIZE)
    come_and_go(post, payload, 30)  # until the C library has as much memory as it ever holds
    before, memory = left(), psutil.Process().memory_info().rss
    come_and_go(post, payload, count)
    assert left() == before
    assert psutil.Process().memory_info().rss < memory + 6 * payload.nbytes
    post.close()


def come_and_go(post: Post, payload: torch.Tensor, count: int) -> None:
    for session in range(count):
        lane = post.come()
        end = session % 3
        reply = post.join(1, session).wait()
        if end:
            assert lane.receive(reply.model.params)[0] == -post.hub.server.version
        entry = post.hub.server.ledger[1]
        version, left = reply.model.version, lanes.apart(payload)[0]
        update = Update(1, session, entry.round, version, left, torch.zeros(2), 0.5, 1, 4)
        if end == 1:  # it dies while it sends
            lane.connection.sendall(bytes(1000))
            lane.close()
            with pytest.raises(ProtocolError, match="its payload did not come"):
                post.push(update)
        elif end == 2:
            lane.receive(sent(post, update, lane, payload).wait().model.params)
        threads = [post.lanes[1].sender]
        lane.close()
        post.hub.leave(1)
        post.forget(1)
        for thread in threads:
            thread.join(10)


def sent(post: Post, update: Update, lane: lanes.Lane, payload: torch.Tensor):
    sending = threading.Thread(target=lane.send, args=([payload],))
    sending.start()
    coming = post.push(update)
    sending.join()
    return coming


def test_a_worker_that_reads_nothing_keeps_nobody_waiting():
    """Both wait for a step; the answer to worker 1 is never read, that to worker 2 comes."""
    post = Post()
    post.hub.server.workers = 2
    first, second = post.come(1), post.come(2)
    coming = post.join(1, 1), post.join(2, 2)
    assert second.receive(coming[1].wait().model.params).eq(0).all()
    assert isinstance(coming[0].wait().model.params, lanes.Hole)
    post.close()
    first.close(), second.close()


def test_a_worker_without_large_parameters_needs_no_connection(monkeypatch):
    from asgd.engines import rpc

    monkeypatch.setattr(rpc, "call", lambda *call: pytest.fail(f"called {call}"))
    exchange = rpc.RpcExchange(1, "wire")
    here = {"pin": lambda vector, **_: vector, "allocate": None}  # as on a CPU
    exchange.attach(SimpleNamespace(params=torch.zeros(lanes.LARGE // 4 - 1), outbox=None, **here))
    assert exchange.lane is None
