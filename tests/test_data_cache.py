"""Copies of remote shards on the host's disk: whole ones or none, under the limit, for several processes."""

import hashlib
import multiprocessing
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from asgd.data.cache import Cache
from asgd.data.errors import DataError
from asgd.data.storage import Storage
from tests.conftest import free_port
from tests.emulator import emulator
from tests.flaky import cut, flaky, flipped

SIZE = 3_000_000
LIMIT = 3.5 * SIZE  # three shards


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def url(number: int) -> str:
    return f"gs://bucket/{number}.tar"


@pytest.fixture(scope="module")
def server():
    with emulator() as running:
        for number in range(5):
            running.put("bucket", f"{number}.tar", content(number))
        yield running


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def storage(proxy, folder, limit: float | None = LIMIT) -> Storage:
    return Storage(
        endpoint=proxy.url, retry_seconds=5, cache_dir=str(folder), cache_gb=None if limit is None else limit / 1e9
    )


def read(store: Storage, number: int, **more) -> bytes:
    with store.open(url(number), **more) as stream:
        return b"".join(iter(lambda: stream.read(100_000), b""))


def fetched(proxy) -> list[str]:
    """The objects of which bytes were asked for, since the last time."""
    paths = [path for method, path, _ in proxy.requests if method == "GET"]
    proxy.requests.clear()
    return paths


def kept(folder: Path, suffix: str = ".shard") -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir() if path.suffix == suffix)


def test_a_shard_is_fetched_once(proxy, folder):
    for _ in range(3):
        assert read(storage(proxy, folder), 0) == content(0)
    assert fetched(proxy) == ["/bucket/0.tar"]
    assert kept(folder) == [content(0)]


def test_the_least_recently_used_go_first_and_the_limit_holds(proxy, folder):
    store = storage(proxy, folder)
    for number in (0, 1, 2, 0, 3):  # 1 is the one not used for longest
        assert read(store, number) == content(number)
    assert kept(folder) == sorted(content(number) for number in (0, 2, 3))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT
    fetched(proxy)
    assert [read(store, number) for number in (3, 0, 2)] == [content(number) for number in (3, 0, 2)]
    assert fetched(proxy) == []


def test_without_a_limit_all_are_kept(proxy, folder):
    store = storage(proxy, folder, limit=None)
    for number in range(5):
        read(store, number)
    assert kept(folder) == sorted(content(number) for number in range(5))


def test_a_shard_above_the_limit_is_only_streamed_and_evicts_nothing(server, proxy, folder):
    server.put("bucket", "9.tar", bytes(int(LIMIT) + 1))
    store = storage(proxy, folder)
    read(store, 0)
    assert [read(store, 9) == bytes(int(LIMIT) + 1) for _ in range(2)] == [True, True]
    assert fetched(proxy) == ["/bucket/0.tar", "/bucket/9.tar", "/bucket/9.tar"]
    assert kept(folder) == [content(0)]


def test_a_changed_object_is_fetched_anew(server, proxy, folder):
    store = storage(proxy, folder)
    server.put("bucket", "8.tar", content(8))
    assert read(store, 8) == content(8)
    server.put("bucket", "8.tar", content(88))
    assert [read(store, 8), read(store, 8)] == [content(88)] * 2
    assert fetched(proxy) == ["/bucket/8.tar"] * 2


def test_what_breaks_off_and_is_resumed_is_kept_whole(proxy, folder):
    proxy.script["/bucket/0.tar"] = [cut(1_000_000), cut(10)]
    assert read(storage(proxy, folder), 0) == content(0)
    assert len(fetched(proxy)) == 3
    assert read(storage(proxy, folder), 0) == content(0)
    assert fetched(proxy) == []


def test_a_damaged_shard_is_not_kept(proxy, folder):
    proxy.script["/bucket/0.tar"] = [flipped(2_000_000)]
    with pytest.raises(DataError, match="the bytes were changed on their way"):
        read(storage(proxy, folder), 0)
    assert (kept(folder), kept(folder, ".part")) == ([], [])
    assert read(storage(proxy, folder), 0) == content(0)


def test_a_shard_that_is_not_read_to_its_end_is_not_kept(proxy, folder):
    with storage(proxy, folder).open(url(0)) as stream:
        assert stream.read(SIZE - 1) == content(0)[:-1]
        (part,) = folder.glob("*.part")
    assert not part.exists()
    assert kept(folder) == []
    assert "read ahead" not in [thread.name for thread in threading.enumerate()]


def test_a_copy_that_the_disk_has_damaged_is_told_by_its_checksum(proxy, folder):
    right = hashlib.sha256(content(0)).hexdigest()
    assert read(storage(proxy, folder), 0, sha256=right) == content(0)
    (copy,) = folder.glob("*.shard")
    copy.write_bytes(content(1))
    with pytest.raises(DataError, match=rf"gs://bucket/0\.tar: damaged: its SHA-256 is [0-9a-f]+, not {right}"):
        read(storage(proxy, folder), 0, sha256=right)
    copy.write_bytes(content(0)[:-1])  # this is seen without a checksum
    assert read(storage(proxy, folder), 0) == content(0)


def test_a_shard_evicted_while_it_is_read_is_read_to_its_end(proxy, folder):
    store = storage(proxy, folder, limit=1.5 * SIZE)
    read(store, 0)
    with store.open(url(0)) as stream:
        first = stream.read(10)
        read(store, 1)
        assert kept(folder) == [content(1)]
        assert first + stream.read() == content(0)


def test_shards_that_are_being_written_count(proxy, folder):
    """The room of a shard is taken when it is begun: two at once do not exceed the limit together."""
    store = storage(proxy, folder, limit=1.5 * SIZE)
    with store.open(url(0)) as one, store.open(url(1)) as two:
        assert one.read(10) + two.read(10) == content(0)[:10] + content(1)[:10]
        assert len(list(folder.glob("*.part"))) == 1
        assert one.read() == content(0)[10:]
        assert two.read() == content(1)[10:]
    assert kept(folder) == [content(0)]


def test_a_full_disk_does_not_end_the_reading(proxy, folder, monkeypatch, caplog):
    store = storage(proxy, folder)
    read(store, 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    assert read(store, 0) == content(0)
    assert kept(folder) == [content(1)]
    assert not list(folder.glob("*.part"))
    assert "No space left on device" in caplog.text


def _read_and_wait(store: Storage, pipe) -> None:
    stream = store.open(url(0))
    pipe.send(len(stream.read(1_500_000)))
    pipe.recv()


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_shard(proxy, folder):
    """And the next start removes what it left, and only that: not what another process is writing."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_read_and_wait, args=(storage(proxy, folder), theirs))
    process.start()
    assert ours.recv() == 1_500_000
    (foreign := folder / "notes.txt").write_text("mine")
    with storage(proxy, folder).open(url(1)) as living:
        living.read(10)
        parts = set(folder.glob("*.part"))
        assert len(parts) == 2
        Cache(str(folder), None)  # a start while both live
        assert set(folder.glob("*.part")) == parts
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert set(folder.glob("*.part")) == parts
        Cache(str(folder), None)
        assert len(set(folder.glob("*.part"))) == 1
        assert 10 + len(living.read()) == SIZE
    assert kept(folder) == [content(1)]
    assert foreign.read_text() == "mine"
    fetched(proxy)
    assert read(storage(proxy, folder), 0) == content(0)
    assert fetched(proxy) == ["/bucket/0.tar"]


def _read_many(store: Storage, seed: int) -> list[bool]:
    order = random.Random(seed).choices(range(5), k=6)
    return [read(store, number) == content(number) for number in order]


def test_several_processes_share_a_small_cache(proxy, folder):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(_read_many, [(storage(proxy, folder), seed) for seed in range(2)])
    assert results == [[True] * 6] * 2
    assert 0 < len(list(folder.glob("*.shard"))) <= 3
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT
    assert {hash(each) for each in kept(folder)} <= {hash(content(number)) for number in range(5)}


def test_a_folder_that_cannot_be_used_is_named(proxy, tmp_path):
    (file := tmp_path / "file").write_text("")
    for wrong in (file, file / "below", Path("/proc/cache")):
        with pytest.raises(
            ValueError, match=rf"dataset\.cache_dir={wrong}: must be a folder to write and lock files in"
        ):
            read(storage(proxy, wrong), 0)
    with pytest.raises(ValueError, match=r"dataset\.cache_dir=/proc/cache"):
        storage(proxy, "/proc/cache").check([url(0)], "dataset.url")


def test_a_store_that_cannot_be_reached_is_named_with_a_copy_too(server, folder):
    with flaky(server.port) as proxy:
        read(storage(proxy, folder), 0)
    dead = Storage(endpoint=f"http://127.0.0.1:{free_port()}", retry_seconds=0.1, cache_dir=str(folder))
    with pytest.raises(DataError, match=r"gs://bucket/0\.tar: .*error sending request"):
        read(dead, 0)
