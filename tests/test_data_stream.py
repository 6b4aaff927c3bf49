"""Shards in stores: every byte exactly once or an error, whatever the network does."""

import random
import urllib.request

import pytest
import webdataset

from asgd.data.errors import DataError
from asgd.data.storage import Storage
from tests.conftest import free_port
from tests.flaky import (
    cut,
    first,
    flipped,
    relabelled,
    reset,
    shorter,
    stall,
    status,
    whole,
    without_length,
    without_ranges,
)
from tests.remote import BOUNDARY, CONTENT, DATA, KEYS, SHARD, TAIL, keys, read, shard, storage


@pytest.fixture(autouse=True)
def one_shard(server):
    """In the store, whatever the test before has made of it."""
    server.put("bucket", "x.tar", CONTENT)


HEALED = {
    "cut before the first byte": [cut(0)],
    "cut at a member's boundary": [cut(BOUNDARY)],
    "cut in a header": [cut(BOUNDARY + 100)],
    "cut in the data": [cut(DATA)],
    "cut in the end marker": [cut(TAIL)],
    "reset at a member's boundary": [reset(BOUNDARY)],
    "reset in the data": [reset(DATA)],
    "429": [status(429)],
    "503 twice": [status(503), status(503)],
    "408, 429 and 500 in the rest": [cut(DATA), status(408), status(429), status(500)],
    "cut again and again": [cut(300_000), cut(1), cut(70_000), cut(0), cut(BOUNDARY - 300_000), cut(512)],
    "the rest has a length that is too short": [cut(DATA), shorter(512)],
    "the rest begins at another byte": [
        cut(DATA),
        relabelled({"content-range": f"bytes {BOUNDARY}-{len(CONTENT) - 1}/{len(CONTENT)}"}),
    ],
}


@pytest.mark.parametrize("name", HEALED)
def test_what_passes_is_healed_and_every_byte_comes_once(proxy, name):
    proxy.script[SHARD] = list(HEALED[name])
    assert keys(storage(proxy)) == KEYS
    assert len(proxy.ranges(SHARD)) == 1 + len(HEALED[name])
    proxy.script[SHARD] = list(HEALED[name])
    assert read(storage(proxy)) == CONTENT


@pytest.mark.parametrize("faults", [[stall(DATA)], [stall(0)], [cut(DATA), stall(0)]], ids=["middle", "start", "rest"])
def test_a_stall_ends_with_the_timeout(proxy, faults):
    proxy.script[SHARD] = list(faults)
    assert keys(storage(proxy, timeout=0.5)) == KEYS
    assert len(proxy.ranges(SHARD)) > len(faults)


def test_the_rest_is_asked_for_and_no_more(proxy):
    proxy.script[SHARD] = [cut(1 << 20), cut(0)]
    assert read(storage(proxy)) == CONTENT
    whole, *rests = proxy.ranges(SHARD)
    assert whole is None
    assert len(rests) == 2
    assert len({*rests}) == 1


@pytest.mark.parametrize("fault", [cut, shorter, without_length])
def test_control_the_usual_way_loses_samples_without_a_word(proxy, fault):
    proxy.script[SHARD] = [fault(BOUNDARY)]
    with urllib.request.urlopen(f"{proxy.url}{SHARD}", timeout=5) as answer:
        files = webdataset.tariterators.tar_file_expander([{"url": "x.tar", "stream": answer}])
        samples = webdataset.tariterators.group_by_keys(files)
        assert [sample["__key__"] for sample in samples] == KEYS[:25]


RAISED = {
    "a length that is too short": ([shorter(BOUNDARY)], "the bytes were changed on their way: their MD5 is"),
    "a length of nothing": ([shorter(0)], "the bytes were changed on their way: their MD5 is"),
    "no length": ([without_length()], "the server does not say how many bytes there are"),
    "no length, cut": ([without_length(BOUNDARY)], "the server does not say how many bytes there are"),
    "a flipped bit in the data": ([flipped(DATA)], "the bytes were changed on their way: their MD5 is"),
    "a flipped bit in the last bytes": ([flipped(len(CONTENT) - 1)], "the bytes were changed on their way"),
    "a flipped bit in the rest": ([cut(BOUNDARY), flipped(10_000)], "the bytes were changed on their way"),
    "not there": ([status(404)], "at byte 0: no such bucket or object"),
    "refused": ([status(403)], "at byte 0: no permission, or not there: check GOOGLE_APPLICATION_CREDENTIALS"),
    "refused later": ([cut(DATA), status(401)], "no permission"),
    "no ranges": ([cut(DATA), without_ranges], "the server cannot send a part of it"),
    "another ETag": ([cut(DATA), relabelled({"etag": '"0123"'})], "the object was replaced while it was being read"),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_cannot_be_healed_is_an_error_with_url_byte_and_cause(proxy, name):
    faults, cause = RAISED[name]
    for get in (read, keys):
        proxy.script[SHARD] = list(faults)
        with pytest.raises(DataError) as error:
            get(storage(proxy))
        assert str(error.value).startswith(f"gs:/{SHARD}: at byte ")
        assert cause in str(error.value)


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_changes_meanwhile_is_an_error_and_no_mixture(server, proxy, change):
    actions = {
        "replaced": lambda: server.put("bucket", "x.tar", shard(seed=1)),
        "deleted": lambda: server.delete("bucket", "x.tar"),
    }
    proxy.script[SHARD] = [first(actions[change], cut(BOUNDARY))]
    with pytest.raises(DataError, match=r"at byte \d+ of \d+: the object was replaced or deleted while"):
        keys(storage(proxy))


def test_a_web_server_that_changes_its_file_is_an_error_and_no_mixture(server, proxy):
    proxy.script[SHARD] = [first(lambda: server.put("bucket", "x.tar", shard(seed=1)), cut(BOUNDARY))]
    with pytest.raises(DataError, match="the object was replaced while it was being read"):
        keys(storage(proxy), proxy.url + SHARD)


def test_it_gives_up_in_the_end_and_says_where(proxy):
    proxy.script[SHARD], proxy.always = [cut(DATA)], status(503)
    with pytest.raises(DataError, match=r"x\.tar: at byte [1-9]\d+ of \d+: .*503 Service Unavailable") as error:
        keys(storage(proxy, retry_seconds=0.3))
    assert "\n" not in str(error.value)
    assert len(proxy.requests) >= 2


def test_a_dead_server_is_named():
    url = f"http://127.0.0.1:{free_port()}/x.tar"
    with pytest.raises(DataError, match=rf"{url}: at byte 0: .*error sending request"):
        keys(Storage(retry_seconds=0.2), url)


@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_faults_ends_whole_or_in_an_error(proxy, seed):
    """Faults drawn at random, at random bytes: every sample once and unchanged, or a DataError."""
    numbers = random.Random(seed)
    faults = [cut, cut, cut, reset, shorter, flipped, without_length, lambda at: status(503), lambda at: whole]
    proxy.script[SHARD] = [numbers.choice(faults)(numbers.choice([0, 1, 512, 100_000, 300_000])) for _ in range(6)]
    try:
        with storage(proxy, timeout=2).open("gs:/" + SHARD) as stream:
            pieces = list(iter(lambda: stream.read(numbers.choice([512, 10_240, 400_000])), b""))
    except DataError as error:
        assert str(error).startswith(f"gs:/{SHARD}: at byte ")
    else:
        assert b"".join(pieces) == CONTENT
