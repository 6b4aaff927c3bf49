"""A web proxy on loopback that breaks the answers it is told to break, in the order of the requests for a path."""

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Answer:
    """What the server has answered, to be changed and sent on."""

    connection: socket.socket
    status: int
    headers: dict[str, str]
    body: bytes
    method: str

    def send(self, count: int | None = None, headers: dict[str, str | None] | None = None) -> None:
        """The headers (changed: None leaves one out) and the first ``count`` bytes of the body."""
        kept = self.headers | {"Connection": "close"} | (headers or {})
        lines = [
            f"HTTP/1.1 {self.status} -",
            *(f"{name}: {value}" for name, value in kept.items() if value is not None),
        ]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())
        if self.method != "HEAD":
            self.connection.sendall(self.body[:count])


Fault = Callable[[Answer], None]


def whole(answer: Answer) -> None:
    answer.send()


def cut(after: int) -> Fault:
    """The connection is closed in good order after so many bytes of the announced body."""
    return lambda answer: answer.send(after)


def reset(after: int) -> Fault:
    """The same, with an RST instead of a FIN."""

    def fault(answer: Answer) -> None:
        answer.send(after)
        answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return fault


def stall(after: int) -> Fault:
    """Nothing comes any more, and the connection stays open until the client closes it."""

    def fault(answer: Answer) -> None:
        answer.send(after)
        answer.connection.recv(1)

    return fault


def status(code: int) -> Fault:
    """The request is refused."""

    def fault(answer: Answer) -> None:
        answer.status, answer.body = code, b"" if answer.method == "HEAD" else b"try again"
        answer.send(headers={"Content-Length": str(len(answer.body)), "ETag": None, "Content-Range": None})

    return fault


def shorter(after: int) -> Fault:
    """Fewer bytes, and a length that says so: no client can tell from the length."""
    return lambda answer: answer.send(after, {"Content-Length": str(after)})


def without_length(after: int | None = None) -> Fault:
    """The end of the body is the end of the connection."""
    return lambda answer: answer.send(after, {"Content-Length": None})


def flipped(at: int) -> Fault:
    """One bit of the body is another."""

    def fault(answer: Answer) -> None:
        answer.body = answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :]
        answer.send()

    return fault


def first(action: Callable[[], None], then: Fault) -> Fault:
    """Something else happens before the answer, which is not changed by it, is sent."""

    def fault(answer: Answer) -> None:
        action()
        then(answer)

    return fault


def without_ranges(answer: Answer) -> None:
    """The whole object, whatever was asked for, as a server that knows no ranges."""
    answer.status = 200
    answer.headers.pop("Content-Range", None)
    answer.send()


def relabelled(headers: dict[str, str | None], then: Fault = whole) -> Fault:
    """Other values of headers that are there, by their names in lower case; None leaves one out."""

    def fault(answer: Answer) -> None:
        answer.headers = {name: headers.get(name.lower(), value) for name, value in answer.headers.items()}
        then(answer)

    return fault


@dataclass
class Proxy:
    """``script[path]`` are the faults of the next requests for a path, ``always`` is that of all others."""

    port: int = 0
    script: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    always: Fault = whole
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    tokens: list[str | None] = field(default_factory=list)  # the Authorization of each request
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self, path: str) -> list[str | None]:
        """The ranges that were asked of a path, in order."""
        return [one for method, each, one in self.requests if (method, each) == ("GET", path)]

    def next(self, method: str, path: str, headers: Mapping[str, str]) -> Fault:
        with self.lock:
            self.requests.append((method, path, headers.get("Range")))
            self.tokens.append(headers.get("Authorization"))
            return self.script[path].pop(0) if method == "GET" and self.script[path] else self.always


@contextmanager
def flaky(upstream: int) -> Iterator[Proxy]:
    """A proxy before the server on that port of this machine."""
    proxy = Proxy()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fault = proxy.next(self.command, unquote(urlsplit(self.path).path), self.headers)
            self.close_connection = True
            with suppress(ConnectionError):
                fault(_ask(upstream, self))

        do_HEAD = do_GET

        def log_message(self, *arguments) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # with 5, connections made at once wait for a second

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


def _ask(upstream: int, request: BaseHTTPRequestHandler) -> Answer:
    connection = HTTPConnection("127.0.0.1", upstream, timeout=10)
    try:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("connection", "host")}
        connection.request(request.command, request.path, headers=headers)
        answer = connection.getresponse()
        hop_by_hop = ("transfer-encoding", "connection")
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in hop_by_hop}
        body = answer.read()
        if request.command == "GET":
            kept["Content-Length"] = str(len(body))
        return Answer(request.connection, answer.status, kept, body, request.command)
    finally:
        connection.close()
