"""What strangers send to a star's port: the server lives, its worker goes on, another can join, and it is logged."""

import logging
import random
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import msgspec
import psutil
import pytest
import torch
import zmq

from asgd import results
from asgd.engines.shared import Place
from asgd.engines.star import contents
from asgd.engines.star.caller import CallRefused
from asgd.engines.star.post import ALIEN, NOTED, WORDLESS
from asgd.engines.star.session import Again, Answer, Beat, Call, More, Refused, State, encode
from tests.conftest import free_port
from tests.star import Node, Star, a_star

PROTOCOL = "does not speak this protocol"
REFUSED, UNKNOWN = "made a call that is refused", "has a session that is not known here"
GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
BOMB = b"\x02" + struct.pack(">Q", 1 << 62)  # the header of a frame of so many bytes
NOISE = random.Random(0).randbytes(20_000)
MB = 1 << 20


@pytest.fixture(scope="module")
def star(tmp_path_factory) -> Iterator[Star]:
    with a_star(tmp_path_factory.mktemp("strangers"), "workers=5", "nonfinite=skip") as star:
        yield star


@pytest.fixture
def worker(star, caplog) -> Iterator[Node]:
    """A worker that is there before and works afterwards; then a new one comes."""
    caplog.set_level(logging.WARNING)
    star.post.strangers.clear()
    star.host.server.workers = 1  # those who were there before are not waited for
    node = star.worker(1)
    node.join()
    node.push()
    yield node
    version = node.push().version
    other = star.worker()
    assert other.rank == 2 and other.join().version == version
    assert other.push().version == version + 1 and star.post.thread.is_alive()
    other.leave()
    node.leave()
    assert not [each for each in caplog.records if each.levelno > logging.WARNING]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.01)


def noted(star: Star, what: str, count: int = 1) -> None:
    until(lambda: star.post.strangers[what] >= count)
    assert star.post.strangers[what] == count


def stranger(star: Star, *words: bytes) -> None:
    """Says something, each piece once the server has had the chance to answer the last, and leaves."""
    with socket.create_connection(("127.0.0.1", star.port)) as there:
        there.settimeout(60)
        try:
            for word in words:
                there.recv(1000)
                there.sendall(word)
        except OSError:
            pass  # it was thrown out


# What is no ZeroMQ, or not all of it


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"], WORDLESS),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:500]], WORDLESS),
        ([bytes(10_000)], WORDLESS),
        ([b"\xff" + NOISE], WORDLESS),
        ([b""], WORDLESS),
        ([GREETING + BOMB], WORDLESS),
        ([GREETING, READY + BOMB], WORDLESS),
        ([GREETING, READY], WORDLESS),
        ([GREETING, b"\x04\x29" + NOISE[:41]], PROTOCOL),
        ([GREETING.replace(b"NULL", b"NONE"), READY], PROTOCOL),
    ],
    ids="http tls zeros noise nothing bomb late-bomb silent no-command mechanism".split(),
)
def test_who_does_not_speak_the_protocol_is_noted_once(star, worker, words, what):
    stranger(star, *words)
    noted(star, what)
    assert set(star.post.strangers) <= {what, ALIEN}  # some of it may look like frames of ZMTP 1.0


def test_a_message_of_ours_in_zeromqs_first_protocol_ends_nothing(star, worker):
    """ZMTP 1.0 has no greeting: an identity, and frames."""
    again = encode(Again(7, 1))
    stranger(star, b"\x01\x00" + bytes([len(again) + 1, 0]) + again)
    noted(star, UNKNOWN)
    noted(star, WORDLESS)


def test_noise_in_that_old_version_is_no_message_of_ours(star, worker):
    stranger(star, b"\x01\x00" + 50 * b"\x06\x00hello")
    noted(star, ALIEN, 50)


def half_open(star: Star, worker: Node, count: int, caplog) -> None:
    process = psutil.Process()
    before, memory = process.num_fds(), process.memory_info().rss
    there = [socket.create_connection(("127.0.0.1", star.port)) for _ in range(count)]
    worker.push()
    noted(star, WORDLESS, count)  # thrown out: they do not leave by themselves
    until(lambda: process.num_fds() <= before + count + 8)
    for each in there:
        each.close()
    assert process.memory_info().rss - memory < 64 * MB
    assert len([each for each in caplog.records if WORDLESS in each.message]) == NOTED + count // 1000


def test_connections_that_say_nothing_are_closed(star, worker, caplog):
    half_open(star, worker, 200, caplog)


@pytest.mark.slow
def test_a_thousand_connections_that_say_nothing_are_closed(star, worker, caplog):
    half_open(star, worker, 1000, caplog)


def test_who_comes_and_goes_at_once_leaves_nothing(star, worker):
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(100):
        socket.create_connection(("127.0.0.1", star.port)).close()
    noted(star, WORDLESS, 100)
    until(lambda: process.num_fds() <= before)


# ZeroMQ, but no message of ours, or one that cannot be


class Peer:
    """A ZeroMQ socket that sends what it likes."""

    def __init__(self, star: Star):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(star.address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def ask(self, *frames: bytes):
        self.send(*frames)
        return self.answer()

    def answer(self):
        assert self.socket.poll(60_000)
        return msgspec.msgpack.decode(self.socket.recv_multipart()[0], type=Refused | State | Answer | More)

    def granted(self, session: int) -> None:
        """Become worker 3."""
        self.ask(encode(Call(session, 1, contents.encode(contents.Hello(3)))))


@pytest.fixture
def peer(star) -> Iterator[Peer]:
    peer = Peer(star)
    yield peer
    peer.context.destroy(linger=0)


def call(session: int, serial: int, body: contents.Body | bytes, sizes: tuple[int, ...] = ()) -> bytes:
    return encode(Call(session, serial, body if isinstance(body, bytes) else contents.encode(body), sizes))


PACK = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1"],
        [NOISE[:1000]],
        [PACK({"a": 1})],
        [PACK([99, 1, 1])],
        [PACK([1, 1])],
        [PACK([1, "one", 1, b"", []])],
        [PACK([1, 1, 1, b"", [], 7])],
        [PACK([1, 1, 1, b"", [1] * 1001])],
        [PACK([1, 1, 1, bytes((1 << 18) + 1), []])],
        [200_000 * b"\x91"],
        [encode(Beat(1, 1)), b"", b""],
        [encode(State(1, 1, 0, 0))],
        [encode(Answer(1, 1, b""))],
        [encode(Refused(1, 1))],
    ],
    ids="empty invalid noise map tag short type long sizes body deep three state answer refused".split(),
)
def test_what_is_no_message_of_ours_is_noted_once(star, worker, peer, frames):
    peer.send(*frames)
    noted(star, ALIEN)


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        (b"", ()),
        (NOISE[:100], ()),
        (PACK(["Execute", "rm"]), ()),
        (PACK(["Hello", "one"]), ()),
        (contents.Join(1), ()),
        (contents.Hello(3), (1 << 62,)),
        (contents.Hello(3), (-1,)),
        (contents.Ship("worker.log", 5, 0, 0), (5,)),
    ],
    ids="nothing noise unknown type join size negative ship".split(),
)
def test_a_first_call_that_is_no_hello_is_refused_with_a_reason(star, worker, peer, body, sizes):
    answer = peer.ask(call(session := secrets.randbits(60), 1, body, sizes))
    assert isinstance(answer, Refused) and answer.reason and len(answer.reason) <= 1000
    noted(star, REFUSED)
    until(lambda: session not in star.post.desk.seats)
    assert session not in star.service.ranks


@pytest.mark.parametrize("message", [Call(7, 2, b""), Call(7, -1, b""), More(7, 1, 0, 0), Again(7, 1)])
def test_a_session_that_nobody_began_is_not_known(star, worker, peer, message):
    assert peer.ask(encode(message), b"piece") == Refused(7, 0)
    noted(star, UNKNOWN)


def push(star: Star, **fields) -> contents.Push:
    params, buffers = star.host.server.parameters.vector, star.host.server.buffers.value
    kinds = {"payload": (contents.kind(params),), "encoded": False, "buffers": contents.kind(buffers)}
    content = {"session": 1, "round": 0, "version": 0, "loss": 0.5, "correct": None, "samples": 1, "read": None}
    return contents.Push(**(content | kinds | fields))


BAD_PUSHES = {
    "shape": {"payload": (("torch.float64", 4),)},
    "dtype": {"payload": (("torch.float32", 3),)},
    "no dtype": {"payload": (("torch.anything", 3),)},
    "too large": {"payload": (("torch.float64", 1 << 49),)},
    "negative": {"payload": (("torch.float64", -3),)},
    "two": {"payload": (("torch.float64", 3), ("torch.float64", 3))},
    "none": {"payload": ()},
    "encoded": {"encoded": True},
    "buffers": {"buffers": ("torch.float64", 7)},
    "outbox": {"payload": None},
    "no samples": {"correct": 0, "samples": 0},
    "too many right": {"correct": 2, "samples": 1},
    "negative samples": {"samples": -1},
    "endless samples": {"samples": 1 << 62},
    "round": {"round": -1},
    "version": {"version": -1},
}


@pytest.mark.parametrize("name", BAD_PUSHES)
def test_an_update_that_cannot_be_one_of_this_model_is_refused_and_costs_no_memory(star, worker, peer, name):
    session = secrets.randbits(60)
    peer.granted(session)
    body = push(star, **BAD_PUSHES[name])
    sizes = [max(0, contents.TYPES.get(each[0], torch.uint8).itemsize * each[1]) for each in body.payload or ()]
    before = star.host.server.version
    answer = peer.ask(call(session, 2, body, (*sizes, 0)))
    assert isinstance(answer, Refused) and answer.serial == 2
    assert star.host.server.version == before and star.post.desk.seats[session].coming is None
    noted(star, REFUSED)
    assert peer.ask(call(session, 3, contents.Goodbye(0))).serial == 3  # and the session goes on


@pytest.mark.parametrize("name", ["wrong session", "a later round", "a version to come"])
def test_an_update_of_another_session_round_or_version_is_not_granted(star, worker, name):
    fields = {"wrong session": {"session": 99}, "a later round": {"round": worker.round + 5}}
    with pytest.raises(ValueError, match="worker 1"):
        worker.exchange.push(worker.update(**fields.get(name, {"version": 10**9})))
    noted(star, "made a call that is not granted")


def test_an_update_that_is_not_finite_is_counted_and_not_applied(star, worker):
    before, counts = star.host.server.version, dict(star.host.server.counts)
    for value in (float("nan"), float("inf")):
        assert worker.push(value).version == before
    assert worker.push(loss=float("nan")).version == before
    assert star.host.server.counts == counts | {"nonfinite": counts["nonfinite"] + 3}


def test_memory_of_another_place_or_size_is_not_looked_at(star, worker):
    params = star.host.server.parameters.vector
    nowhere = contents.described(Place(1, 0, secrets.token_bytes(16), params.numel(), params.dtype))
    assert worker.line.call(contents.Share(nowhere, 1))[0] == contents.Shared(None)
    large = contents.described(Place(1, 0, secrets.token_bytes(16), 1 << 40, params.dtype))
    with pytest.raises(ValueError, match="this model has"):
        worker.line.call(contents.Share(large, 1))
    with pytest.raises(CallRefused, match="<= 2"):
        worker.line.call(contents.Share(nowhere, 1 << 30))


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "stats/ps/updates.csv", "", "x" * 1000])
def test_a_file_elsewhere_is_not_written(star, worker, name):
    before = sorted(path for path in star.host.folder.rglob("*") if path.is_file())
    with pytest.raises(ValueError, match=r"is not a file|no call that is granted"):
        worker.line.call(contents.Ship(name, 1, 0, 0), torch.zeros(1, dtype=torch.uint8))
    assert sorted(path for path in star.host.folder.rglob("*") if path.is_file()) == before


def test_a_file_with_a_hole_is_not_written(star, worker):
    data = torch.zeros(1, dtype=torch.uint8)
    for base, at in ((0, 1 << 40), (1 << 40, 0)):
        with pytest.raises(ValueError, match=r"worker\.log"):
            worker.line.call(contents.Ship("worker.log", 1, base, at), data)
    assert worker.line.call(contents.Ship("worker.log", 1, 0, 0), data)[0] == contents.Shipped(0)


# Memory


def growth(action: Callable[[], None]) -> int:
    """Bytes that this process has gained by it."""
    process = psutil.Process()
    before = process.memory_info().rss
    action()
    return process.memory_info().rss - before


def test_sessions_that_never_say_goodbye_are_bounded_in_number(star, worker, peer, monkeypatch):
    monkeypatch.setattr("asgd.engines.star.desk.SEATS", len(star.post.desk.seats) + 50)
    answers = [peer.ask(call(secrets.randbits(60), 1, contents.Hello(1))) for _ in range(60)]
    assert [isinstance(each, Answer) for each in answers] == 50 * [True] + 10 * [False]
    for session in [*star.post.desk.seats]:
        if session not in star.service.ranks:
            star.post.do(lambda session=session: star.post.desk.close(session))


def test_who_asks_and_does_not_read_costs_no_memory(star, worker, peer):
    """The answers, a thousand bytes each, would be more than 60 MB."""
    deaf = peer.context.socket(zmq.DEALER)
    deaf.rcvhwm, deaf.rcvbuf, deaf.linger = 1, 4096, 0
    deaf.connect(star.address)
    hello = contents.Hello(3)

    def flood() -> None:
        for session in range(60_000):
            deaf.send(call(session, 1, hello, 50 * (1 << 62,)))
        noted(star, REFUSED, 60_000)

    assert growth(flood) < 32 * MB


def test_files_of_ever_other_sizes_are_not_kept(star, worker):
    def ship() -> None:
        for number in range(40):
            size = MB + number
            worker.line.call(contents.Ship("worker.log", size, 0, 0), torch.ones(size, dtype=torch.uint8))

    assert growth(ship) < 24 * MB


def test_seeded_noise_in_every_field_changes_nothing(star, worker, peer):
    """Messages of ours with bytes changed at random; the state of training stays as it is."""
    chance, session = random.Random(1), secrets.randbits(60)
    peer.granted(session)
    whole = [call(session, 2, push(star), (24, 0)), call(session, 2, contents.Ship("worker.log", 3, 0, 0), (3,))]
    whole += [encode(Beat(session, 1)), encode(Again(session, 1)), call(session, 2, contents.Hello(4))]
    version = star.host.server.version
    for _ in range(3000):
        frame = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        peer.send(bytes(frame), *([NOISE[:24]] if chance.random() < 0.3 else []))
    worker.push()
    assert star.host.server.version == version + 1


@pytest.mark.slow
def test_a_run_of_two_workers_goes_on_whatever_strangers_send(start):
    port = free_port()
    options = ["engine=zmq", "model=mlp", "model.hidden=[16]", "evaluate.every=0", "timing=none", "workers=2"]
    options += ["timing.compute=1e-2", "budget.epochs=null", "budget.updates=200", f"engine.port={port}"]
    server = start(*options, "role=ps", name="server")
    nodes = [start(*options, "role=worker", f"rank={rank}", name="server") for rank in (1, 2)]
    server.until(lambda: len(server.rows("ps/updates.csv")) > 10)
    here = SimpleNamespace(port=port, address=f"tcp://127.0.0.1:{port}")
    for words in ([NOISE], [GREETING, READY + BOMB], [b"GET / HTTP/1.1\r\n\r\n"], [b""]):
        stranger(here, *words)
    peer = Peer(here)
    assert isinstance(peer.ask(call(7, 1, b"no call")), Refused)
    peer.send(b"\xc1")
    output = server.wait()
    peer.context.destroy(linger=0)
    assert [server.code, *((each.wait(), each.code)[1] for each in nodes)] == [0, 0, 0], output
    assert results.summary(server.folder)["applied"] == 200
    assert WORDLESS in output and REFUSED in output and ALIEN in output
