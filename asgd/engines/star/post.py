"""The server's socket: a thread in which the desk lives, one port, and what strangers send to it."""

import logging
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from asgd import keys
from asgd.engines.star import sockets
from asgd.engines.star.desk import Acts, Desk
from asgd.engines.star.session import DECODER, Again, Beat, Call, Message, More, Refused

log = logging.getLogger(__name__)

LOOK = 0.25  # seconds between two looks at the leases
NOTED = 20  # strangers of one kind that are logged one by one
FROM_CLIENTS = (Call, More, Beat, Again)
ALIEN = "sent what is no message of ours"
WORDLESS = "came and left without a message of ours"
STRANGE = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "does not speak this protocol",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "has no key that is let in",
}


class Post:
    """Listens on ``listener`` and gives calls to ``acts``; ``most``: bytes of one message.

    ``waiting``: messages that wait for one client, at most; more are left out, and it asks for them again.
    ``secured``: the server's secret key and the public keys that are let in; None lets in all.
    """

    def __init__(
        self, listener: socket.socket, lease: float, most: int, secured: keys.Ring | None = None, waiting: int = 0
    ):
        self.context = zmq.Context()
        self.gate = keys.guard(self.context, secured) if secured else None
        self.socket = sockets.router(self.context, listener, most, waiting, secured)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED + sum(STRANGE))
        self.known: set[int | None] = set()  # descriptors of connections from which a message of ours has come
        self.failure = WORDLESS  # of the connection that is about to be closed
        self.wake, self.woken = socket.socketpair()
        self.todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.strangers: Counter[str] = Counter()
        self.lease = lease

    def desk_for(self, acts: Acts) -> Desk:
        """The desk at which the calls will come; to be used in ``do`` only."""
        self.desk = Desk(acts, self._send, self.lease)
        return self.desk

    def open(self, broken: Callable[[Exception], None]) -> None:
        """From now on calls come; ``broken`` is told if no more can."""
        self.thread = threading.Thread(target=self._live, args=(broken,), name="post", daemon=True)
        self.thread.start()

    def do(self, action: Callable[[], None] | None) -> None:
        """Have an action done in the thread of the desk; None ends that."""
        self.todo.put(action)
        self.wake.send(b".")

    def close(self) -> None:
        """What was sent has a second to leave."""
        self.do(None)
        self.thread.join()
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(1000)
        if self.gate:
            self.gate.stop()
        self.context.term()
        self.wake.close()
        self.woken.close()

    def _live(self, broken: Callable[[Exception], None]) -> None:
        try:
            self._run()
        except Exception as error:
            log.exception("the server's port is closed")
            broken(error)

    def _run(self) -> None:
        poller = zmq.Poller()
        for each in (self.socket, self.monitor, self.woken):
            poller.register(each, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(LOOK * 1000))
            self.desk.look(sockets.now())
            if self.monitor in ready:
                self._look_who_left()
            if self.socket in ready:
                self._receive_some()
            if self.woken.fileno() in ready and not self._do_all():
                return

    def _do_all(self) -> bool:
        self.woken.recv(1 << 16)
        while not self.todo.empty():
            if (action := self.todo.get()) is None:
                return False
            self._guarded(action)
        return True

    def _guarded(self, action: Callable, *arguments) -> None:
        """One that fails must not end the others' calls."""
        try:
            action(*arguments)
        except Exception:
            log.exception("a call failed in the server; please report it")

    def _receive_some(self, most: int = 256) -> None:
        """What has come, up to so many messages, so that answers leave in between."""
        for _ in range(most):
            try:
                peer, *frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            if (found := read(frames)) and isinstance(found[0], FROM_CLIENTS):
                self.known.add(descriptor(frames[0]))
                self._guarded(self.desk.receive, peer.bytes, *found)
            else:
                self.note(ALIEN)

    def _send(self, peer: bytes, message: Message, piece: memoryview | None) -> None:
        if isinstance(message, Refused):
            what = "made a call that is refused" if message.reason else "has a session that is not known here"
            self.note(what, message.reason)
        sockets.send(self.socket, message, piece, peer)

    def _look_who_left(self) -> None:
        """A connection has ended, or is about to for a reason that is known, without a message of ours."""
        event = parse_monitor_message(self.monitor.recv_multipart())
        if event["event"] in STRANGE:
            self.failure = STRANGE[event["event"]]
            return
        if event["value"] not in self.known:
            self.note(self.failure)
        self.known.discard(event["value"])
        self.failure = WORDLESS

    def note(self, what: str, why: str = "") -> None:
        """Each of the first ones is logged, and then one of a thousand."""
        self.strangers[what] += 1
        count = self.strangers[what]
        if count <= NOTED or count % 1000 == 0:
            log.warning("somebody at the server's port %s%s (%d of this kind)", what, why and f": {why[:300]}", count)


def descriptor(frame: zmq.Frame) -> int | None:
    """Of the connection through which it came; None where an old version of ZeroMQ's protocol does not tell."""
    try:
        return frame.get(zmq.SRCFD)
    except zmq.ZMQError:
        return None


def read(frames: list[zmq.Frame]) -> tuple[Message, memoryview | None] | None:
    """A message and its piece of a vector; None for what is none."""
    try:
        if 1 <= len(frames) <= 2:
            return DECODER.decode(frames[0].buffer), frames[1].buffer if len(frames) == 2 else None
    except (msgspec.DecodeError, ValueError):
        pass
    return None
