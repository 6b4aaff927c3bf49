"""Which shards a URL means, how a store is reached, and what is found out before training."""

import multiprocessing
import pickle

import pytest

from asgd.data import tar
from asgd.data.errors import DataError
from asgd.data.storage import LISTED, Storage
from tests.emulator import emulator
from tests.flaky import flaky, status
from tests.remote import tiny

NAMES = [
    "a/train-0000.tar",
    "a/train-0001.tar",
    "a/val-0000.tar",
    "a/deep/train-0000.tar",
    "b/train-0000.tar",
    "top.tar",
]


@pytest.fixture(scope="module")
def server():
    with emulator() as running:
        for name in NAMES:
            running.put("bucket", name, tiny(name.replace("/", "-").removesuffix(".tar")))
        for number in range(2 * LISTED):
            running.put("many", f"set/{number:04d}.tar", tiny(f"{number}"))
        yield running


@pytest.fixture
def store(server):
    return Storage(endpoint=server.url, retry_seconds=0.2)


PATTERNS = {
    "gs://bucket/a/train-0000.tar": ["a/train-0000.tar"],
    "gs://bucket/a/train-{0000..0001}.tar": ["a/train-0000.tar", "a/train-0001.tar"],
    "gs://bucket/a/train-*.tar": ["a/train-0000.tar", "a/train-0001.tar"],
    "gs://bucket/a/{train,val}-*0.tar": ["a/train-0000.tar", "a/val-0000.tar"],
    "gs://bucket/a/train-000[1-9].tar": ["a/train-0001.tar"],
    "gs://bucket/?/train-0000.tar": ["a/train-0000.tar", "b/train-0000.tar"],
    "gs://bucket/**/train-0000.tar": ["a/deep/train-0000.tar", "a/train-0000.tar", "b/train-0000.tar"],
    "gs://bucket/*.tar": ["top.tar"],
    ("gs://bucket/top.tar", "gs://bucket/b/*.tar"): ["top.tar", "b/train-0000.tar"],
}


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_patterns_of_remote_shards(store, pattern):
    expected = [f"gs://bucket/{name}" for name in PATTERNS[pattern]]
    assert store.expand(pattern if isinstance(pattern, str) else list(pattern), "dataset.url") == expected


def test_files_and_objects_go_together(store, tmp_path):
    (path := tmp_path / "x 1.tar").write_bytes(tiny("local"))
    shards = store.expand([str(tmp_path / "*.tar"), "gs://bucket/top.tar"], "dataset.url")
    assert shards == [str(path), "gs://bucket/top.tar"]
    store.check([*shards, path.as_uri()], "dataset.url")
    assert [sample.key for url in shards for sample in tar.samples(store, url)] == ["local", "top"]
    assert [tar.count(store, url) for url in shards] == [1, 1]
    assert [store.size(url) for url in shards] == [len(tiny("local")), len(tiny("top"))]
    assert store.read(path.as_uri()) == path.read_bytes()
    assert store.read("gs://bucket/top.tar") == tiny("top")
    assert [store.read(url) for url in (str(tmp_path / "none"), "gs://bucket/none")] == [None, None]


MISTAKES = {
    "gs://bucket": "must name a shard as gs://BUCKET/PATH",
    "gs://bucket/": "must name a shard as gs://BUCKET/PATH",
    "gs:bucket/x.tar": "must name a shard as gs://BUCKET/PATH",
    "gs://bucket/nothing-*.tar": "no such object: gs://bucket/nothing-*.tar",
    "gs://nobody-has-it/*.tar": "no such bucket",
    "hdfs://host/x.tar": "cannot read hdfs: shards; give a path, a file: URL or one of gs://, s3://, az://, http://",
    "https://host/*.tar": "a web server cannot be listed; give x-{0000..0007}.tar instead",
    "https://host/x.tar?token=1": "a query (?...) or fragment (#...) cannot be read",
    "gs://bucket/{top,top}.tar": "gs://bucket/top.tar is given more than once",
    "": "this data set needs shards: give dataset.url=PATH",
}


@pytest.mark.parametrize("url", MISTAKES)
def test_what_cannot_be_read_is_named_with_a_remedy(store, url):
    with pytest.raises(ValueError) as error:
        store.check(store.expand(url, "dataset.url"), "dataset.url")
    assert MISTAKES[url] in str(error.value)
    assert url.split("*")[0].partition("{")[0] in str(error.value)


def test_what_is_missing_or_empty_is_found_before_training(server, store, tmp_path):
    (empty := tmp_path / "empty.tar").write_bytes(b"")
    server.put("bucket", "empty.tar", b"")
    wrong = {
        "gs://bucket/none.tar": "no such object",
        "gs://nobody-has-it/x.tar": "no such bucket",
        "gs://bucket/empty.tar": "is empty: write it again",
        str(empty): "is empty: write it again",
        str(tmp_path / "none.tar"): "No such file",
        f"{server.url}/bucket/none.tar": "no such",
    }
    for url, cause in wrong.items():
        with pytest.raises(ValueError, match=rf"dataset\.val_url: .*{url}.*{cause}"):
            store.check(["gs://bucket/top.tar", url], "dataset.val_url")


@pytest.mark.parametrize("listing", ["allowed", "refused"])
def test_many_shards_are_checked_by_one_listing_or_one_by_one(server, listing):
    shards = [f"gs://many/set/{number:04d}.tar" for number in range(2 * LISTED)]
    with flaky(server.port) as proxy:
        if listing == "refused":
            proxy.script["/many"] = [status(403)] * 2
        store = Storage(endpoint=proxy.url, retry_seconds=0.2)
        store.check(shards, "dataset.url")
        heads = [path for method, path, _ in proxy.requests if method == "HEAD"]
        assert sorted(heads) == [f"/many/set/{n:04d}.tar" for n in range(1 if listing == "allowed" else 2 * LISTED)]
        with pytest.raises(ValueError, match=r"dataset\.url: gs://many/set/9999\.tar: no such"):
            store.check([*shards, "gs://many/set/9999.tar"], "dataset.url")


def test_a_small_file_that_cannot_be_had_is_none_and_one_that_breaks_is_an_error(server):
    with flaky(server.port) as proxy:
        store = Storage(endpoint=proxy.url, retry_seconds=0.1)
        assert store.read("gs://bucket/a/index.json") is None
        for code in (401, 403):  # what stores say of absent objects to who may not list
            proxy.script["/bucket/top.tar"] = [status(code)]
            assert store.read("gs://bucket/top.tar") is None
        proxy.always = status(503)
        with pytest.raises(DataError, match=r"gs://bucket/top\.tar: at byte 0: .*503"):
            store.read("gs://bucket/top.tar")


def test_it_goes_to_other_processes(server, store):
    assert store.size("gs://bucket/top.tar") == len(tiny("top"))  # this process has clients, which cannot be sent
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_keys, (pickle.loads(pickle.dumps(store)), "gs://bucket/top.tar")) == ["top"]
    with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(ValueError, match="start it with spawn"):
        pool.apply(store.size, ("gs://bucket/top.tar",))


def _keys(store: Storage, url: str) -> list[str]:
    return [sample.key for sample in tar.samples(store, url)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "dataset.storage.timeout=0: must be a number"),
        ({"retry_seconds": -1}, "dataset.storage.retry_seconds=-1: must be a number of at least 0"),
        ({"endpoint": "127.0.0.1:1"}, "endpoint=127.0.0.1:1: must begin with http:// or https://"),
        ({"anonymous": True, "token": "t"}, "exclude each other"),
        ({"cache_gb": 1}, "dataset.cache_gb=1: there is no cache; give dataset.cache_dir=FOLDER too"),
        ({"cache_dir": "/x", "cache_gb": 0}, "dataset.cache_gb=0: must be a number above 0"),
        ({"cache_dir": "/x", "cache_gb": True}, "dataset.cache_gb=True: must be a number above 0"),
        ({"cache_dir": "/x", "cache_gb": "8"}, "dataset.cache_gb='8': must be a number above 0"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(ValueError) as error:
        Storage(**options)
    assert message in str(error.value)
