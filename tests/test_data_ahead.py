"""Checksums of what comes from stores, and the thread that reads ahead."""

import gzip
import hashlib
import logging
import random
import threading
from base64 import b64encode

import pytest

from asgd.data import stream as streams
from asgd.data import tar
from asgd.data.ahead import AHEAD, ReadAhead
from asgd.data.errors import DataError
from tests.flaky import cut, flipped, relabelled, whole, without_length
from tests.remote import BOUNDARY, CONTENT, DATA, KEYS, SHARD, keys, read, storage


@pytest.fixture(autouse=True)
def one_shard(server):
    """In the store, whatever the test before has made of it."""
    server.put("bucket", "x.tar", CONTENT)


@pytest.fixture(autouse=True)
def no_leaked_thread():
    yield
    left = [each for each in threading.enumerate() if each.name == "read ahead"]
    for thread in left:
        thread.join(5)
    assert not [each for each in left if each.is_alive()]


def test_the_last_bytes_are_not_handed_out_before_they_are_known_to_be_right(proxy):
    """Who reads exactly as many bytes as there are, and never asks for the end, is not deceived either."""
    proxy.script[SHARD] = [flipped(DATA)]
    with storage(proxy).open("gs:/" + SHARD) as stream:
        assert len(stream.read(len(CONTENT) // 4)) == len(CONTENT) // 4
        for _ in range(2):  # it remains an error
            with pytest.raises(DataError, match="the bytes were changed"):
                stream.read(len(CONTENT) * 3 // 4)


def test_reads_are_as_long_as_asked_for(proxy):
    numbers, pieces = random.Random(0), []
    with storage(proxy).open("gs:/" + SHARD) as stream:
        while piece := stream.read(asked := numbers.choice([1, 512, 10_240, 700_000, 1_500_000])):
            pieces.append(piece)
            assert len(piece) == asked or sum(map(len, pieces)) == len(CONTENT)
        assert stream.read() == b""
    assert b"".join(pieces) == CONTENT
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_a_checksum_that_is_handed_in_decides(proxy, digest):
    """Also where the ETag is none, as that of an object that was put together from parts."""
    proxy.always = relabelled({"etag": '"CNCWvaX9oYwDEAE="'})
    right = hashlib.sha256(CONTENT).hexdigest() if digest == "sha256" else None
    assert keys(storage(proxy), sha256=right) == KEYS
    proxy.always = relabelled({"etag": '"CNCWvaX9oYwDEAE="'}, flipped(DATA))
    if right is None:
        assert keys(storage(proxy)) == KEYS  # control: nobody can tell
    else:
        with pytest.raises(DataError, match=f"their SHA-256 is [0-9a-f]{{64}}, not {right}"):
            keys(storage(proxy), sha256=right.upper())


def test_an_etag_that_only_looks_like_an_md5_is_no_false_alarm(proxy, caplog):
    """S3 with KMS, and web servers: what is read twice is the same, so it is what the store has."""
    proxy.always = relabelled({"etag": '"0123456789abcdef0123456789abcdef"'})
    url = proxy.url + SHARD
    assert [keys(storage(proxy), url) for _ in range(2)] == [KEYS, KEYS]
    assert len(proxy.ranges(SHARD)) == 3  # the second time nothing is read twice
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert f"{url}: its ETag looks like an MD5 and is none" in record.getMessage()


def test_a_flipped_bit_from_a_web_server_is_caught_by_reading_again(proxy):
    proxy.script[SHARD] = [flipped(DATA)]
    with pytest.raises(DataError, match="the bytes were changed on their way"):
        keys(storage(proxy), proxy.url + SHARD)
    assert keys(storage(proxy), proxy.url + SHARD) == KEYS


def test_md5_of_an_etag():
    digest = hashlib.md5(b"x")
    stated = digest.hexdigest()
    assert streams.md5(f'"{stated}"') == streams.md5(f'"{b64encode(digest.digest()).decode()}"') == stated
    for other in (None, "", '"abc"', f'"{stated}-4"', f'W/"{stated}"', '"CNCWvaX9oYwDEAE="', '"0x8DCAF"'):
        assert streams.md5(other) is None


def test_shards_in_gzip(server, proxy):
    stored, url = gzip.compress(CONTENT), "gs://bucket/z.tar.gz"
    server.put("bucket", "z.tar.gz", stored)
    proxy.script["/bucket/z.tar.gz"] = [cut(DATA), cut(BOUNDARY), whole, flipped(DATA)]
    assert keys(storage(proxy), url) == KEYS
    assert read(storage(proxy), url) == stored
    with pytest.raises(DataError, match=r"z\.tar\.gz: "):
        keys(storage(proxy), url)


def test_what_the_store_unpacks_is_an_error(server, proxy):
    """Stored with Content-Encoding: gzip, it is sent as other bytes than it has, and often without a length."""
    server.put("bucket", "z.tar", gzip.compress(CONTENT), contentEncoding="gzip")
    for fault, cause in ((whole, "with a Content-Encoding, and unpacked?"), (without_length(), "a Content-Encoding?")):
        proxy.script["/bucket/z.tar"] = [fault]
        with pytest.raises(DataError) as error:
            keys(storage(proxy), "gs://bucket/z.tar")
        assert cause in str(error.value)


def test_closing_in_the_middle_ends_thread_and_request_at_once(proxy):
    """Also in a stall that would last for as long as the time-out."""
    ended = threading.Event()

    def hold(answer):
        answer.send(DATA)
        answer.connection.recv(1)  # until the client has closed
        ended.set()

    proxy.script[SHARD] = [hold]
    stream = storage(proxy, timeout=3600).open("gs:/" + SHARD)
    assert stream.read(1000) == CONTENT[:1000]
    stream.close()
    assert ended.wait(10)
    assert "read ahead" not in [each.name for each in threading.enumerate()]


def test_a_bounded_number_of_chunks_is_read_ahead():
    taken, ahead = 0, []

    async def chunks():
        for number in range(500):
            ahead.append(number - taken)
            yield bytes([number % 256]) * 10

    with ReadAhead(chunks()) as stream:
        for number in range(500):
            assert stream.read(10) == bytes([number % 256]) * 10
            taken += 1
    assert 1 <= max(ahead) <= AHEAD + 2


def test_abandoned_readers_leave_no_thread(proxy):
    samples = tar.samples(storage(proxy), "gs:/" + SHARD)
    assert next(samples).key == KEYS[0]
    samples.close()
    assert "read ahead" not in [each.name for each in threading.enumerate()]
