"""As much of S3 as it takes to write shards and read them back, on loopback; ``faults`` are answered first."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

LISTING = "<ListBucketResult><Name>b</Name><KeyCount>{}</KeyCount><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
OBJECT = "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.puts.append(self.name)
        if not self.fails():
            self.server.objects[self.name] = content
            self.answer(200, ETag='"x"')

    def do_GET(self):
        if self.fails():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            return self.answer(200, self.listing(query["prefix"][0]))
        if (content := self.server.objects.get(self.name)) is None:
            return self.answer(404)
        self.answer(*self.part(content), ETag='"x"')

    do_HEAD = do_GET

    def do_POST(self):
        """DeleteObjects."""
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = re.findall("<Key>(.*?)</Key>", content)
        for name in names:
            self.server.objects.pop(name, None)
        done = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{done}</DeleteResult>".encode())

    def part(self, content: bytes):
        if (asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) is None:
            return 200, content
        return 206, content[int(asked[1]) : int(asked[2] or len(content)) + 1]

    def listing(self, prefix: str) -> bytes:
        found = {name: content for name, content in self.server.objects.items() if name.startswith(prefix)}
        entries = "".join(OBJECT.format(escape(name), len(content)) for name, content in found.items())
        return LISTING.format(len(found), entries).encode()

    @property
    def name(self) -> str:
        """The object's, without the bucket's."""
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def fails(self) -> bool:
        if fault := self.server.faults.pop((self.command, self.name), None):
            self.answer(fault)
        return bool(fault)

    def answer(self, status: int, content: bytes = b"", **headers):
        self.send_response(status)
        headers |= {"Content-Length": str(len(content)), "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else content)

    def log_message(self, *_):
        pass


@contextmanager
def s3(monkeypatch):
    """A running server: ``url`` of a bucket, ``objects`` by name, the names of all ``puts``, and ``faults``:
    {(verb, name): status} for once.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"s3://bucket{server.server_port}"  # clients are kept by the bucket's name
    server.objects, server.puts, server.faults = {}, [], {}
    environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_REGION": "us-east-1"}
    for name, value in (environment | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}).items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
