"""One shard of known content in an emulated store, for tests of how it is read."""

import io
import random
import tarfile

from asgd.data import tar
from asgd.data.storage import Storage
from tests.flaky import Proxy

SAMPLES = 40
SIZE = 50_000  # bytes of an image
KEYS = [f"{number:03d}" for number in range(SAMPLES)]
SHARD = "/bucket/x.tar"


def _archive(*samples: tuple[str, bytes]) -> bytes:
    """A shard of (key, image), all with label 1."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for key, image in samples:
            for suffix, content in (("jpg", image), ("cls", b"1")):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tiny(*keys: str) -> bytes:
    """A shard of a few kilobytes."""
    return _archive(*((key, b"1") for key in keys))


def shard(seed: int = 0) -> bytes:
    """Two megabytes, so two chunks of the client."""
    numbers = random.Random(seed)
    return _archive(*((key, numbers.randbytes(SIZE)) for key in KEYS))


CONTENT = shard()
with tarfile.open(fileobj=io.BytesIO(CONTENT)) as _opened:
    _member = _opened.getmembers()[2 * 25]
BOUNDARY = _member.offset  # 25 whole samples come before
DATA = _member.offset_data + 1000
TAIL = len(CONTENT) - 700  # in the end-of-archive marker


def storage(proxy: Proxy, **changes) -> Storage:
    return Storage(**{"endpoint": proxy.url, "timeout": 10, "retry_seconds": 20} | changes)


def keys(store: Storage, url: str = "gs:/" + SHARD, **more) -> list[str]:
    return [sample.key for sample in tar.samples(store, url, **more)]


def read(store: Storage, url: str = "gs:/" + SHARD) -> bytes:
    with store.open(url) as stream:
        return stream.read()
