"""The index says what is in the shards, is found without listing, and is never believed when it cannot be right."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from obstore.exceptions import PermissionDeniedError

from asgd.data import index
from asgd.data.errors import DataError
from asgd.data.index import Entry
from asgd.data.storage import Storage
from tests.shards import write_set

SHA = "0" * 64


class Watched(Storage):
    """Notes what is asked of it, and can do no more than these two."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def read(self, url):
        self.asked.append(("read", url))
        return super().read(url)

    def open(self, url, sha256=None):
        self.asked.append(("open", url))
        return super().open(url, sha256)

    def expand(self, *_):
        raise AssertionError("listing is not permitted")

    size = check = expand


def truth(path: str, samples: int) -> Entry:
    content = Path(path).read_bytes()
    return Entry(samples, len(content), hashlib.sha256(content).hexdigest())


def save(shards: list[str]) -> Path:
    """The index of these shards in its place."""
    path = Path(index.place(shards[0]))
    path.write_bytes(index.dumps(index.build(Storage(), shards)))
    return path


@pytest.mark.parametrize(
    "shard, place",
    [
        ("a/train-000007.tar", "a/train-index.json"),
        ("gs://bucket/a/val-0001.tar", "gs://bucket/a/val-index.json"),
        ("000012.tar", "index.json"),
        ("a/000012.tar.gz", "a/index.json"),
        ("a/cifar10.tar", "a/cifar10-index.json"),
        ("a/cifar10-mini-train-0003.tar", "a/cifar10-mini-train-index.json"),
        ("v1.2/x-00003-of-00064.tar", "v1.2/x-index.json"),
        ("shard0007.tgz", "shard-index.json"),
    ],
)
def test_the_index_lies_beside_its_shards_under_their_common_name(shard, place):
    assert index.place(shard) == place


def test_it_holds_the_samples_bytes_and_checksum_of_each_shard_read_once(tmp_path):
    shards, storage = write_set(tmp_path, "train", [3, 1, 4]), Watched()
    built = index.build(storage, shards)
    assert storage.asked == [("open", shard) for shard in shards]
    assert (built["__kind__"], built["wids_version"], built["name"]) == ("wids-shard-index-v1", 1, "train")
    expected = [truth(shard, samples) for shard, samples in zip(shards, [3, 1, 4], strict=True)]
    names = ["train-0000.tar", "train-0001.tar", "train-0002.tar"]
    assert built["shardlist"] == [
        {"url": name, "nsamples": entry.samples, "filesize": entry.bytes, "sha256": entry.sha256}
        for name, entry in zip(names, expected, strict=True)
    ]


def test_a_compressed_shard_is_measured_as_it_is_stored(tmp_path):
    (plain,) = write_set(tmp_path, "train", [5])
    path = tmp_path / "packed-0000.tar.gz"
    path.write_bytes(gzip.compress(Path(plain).read_bytes()))
    assert index.measure(Storage(), str(path)) == truth(str(path), 5)


def test_a_truncated_shard_has_no_index(tmp_path):
    (shard,) = write_set(tmp_path, "train", [5])
    Path(shard).write_bytes(Path(shard).read_bytes()[:-10240])
    with pytest.raises(DataError, match=shard):
        index.build(Storage(), [shard])


def test_several_sets_in_a_folder_are_found_with_one_read_each_and_without_listing(tmp_path):
    train, val, other = (write_set(tmp_path, name, [2] * 30) for name in ("train", "val", "other"))
    save(train), save(val)
    storage = Watched()
    found = index.find(storage, [*val, *train[::-1], *other])
    asked = [url for verb, url in storage.asked if verb == "read"]
    assert asked == [f"{tmp_path}/{name}-index.json" for name in ("other", "train", "val")]
    assert found == {shard: truth(shard, 2) for shard in [*val, *train[::-1]]}
    assert list(found) == [*val, *train[::-1]]


def test_where_there_is_no_index_nothing_is_known(tmp_path):
    assert index.find(Storage(), write_set(tmp_path, "train", [1])) == {}


@pytest.mark.parametrize("error", [PermissionDeniedError("403"), PermissionError("no")])
def test_a_store_that_refuses_what_it_does_not_list_has_no_index(error):
    class Refuses(Storage):
        def read(self, url):
            raise error

    assert index.find(Refuses(), ["gs://bucket/train-000000.tar"]) == {}


GOOD = {"url": "train-0000.tar", "nsamples": 2, "filesize": 10240, "sha256": SHA}


def of(*shardlist, **changes) -> str:
    return json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": list(shardlist)} | changes)


WRONG = {
    "": "Expecting value",
    "\0\0": "Expecting value",
    of(GOOD)[:-1]: "delimiter",
    "[]": "list",
    "{}": "no '__kind__'",
    of(GOOD, wids_version=2): "version 2",
    of(GOOD, __kind__="other"): "kind other",
    of(GOOD, shardlist=3): "int",
    of("train-0000.tar"): "str",
    of(GOOD | {"nsamples": 0}): "nsamples=0",
    of(GOOD | {"nsamples": True}): "nsamples=True",
    of(GOOD | {"filesize": None}): "filesize=None",
    of({"url": "train-0000.tar", "nsamples": 2}): "no 'filesize'",
    of(GOOD | {"sha256": "abc"}): "sha256='abc'",
    of(GOOD, GOOD): "listed twice",
    of(GOOD | {"url": "train-0001.tar"}): "does not list train-0000.tar",
}


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_index_is_an_error_that_names_file_cause_and_remedy(tmp_path, content):
    shards = write_set(tmp_path, "train", [2])
    path = tmp_path / "train-index.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        index.find(Storage(), shards)
    assert all(part in str(caught.value) for part in (str(path), WRONG[content], "python -m asgd.data.index"))


def test_indexes_of_other_tools_are_read(tmp_path):
    (shard,) = write_set(tmp_path, "train", [2])
    entry = {"url": "gs://elsewhere/train-0000.tar", "nsamples": 2, "filesize": 7, "md5sum": "x"}
    (tmp_path / "train-index.json").write_text(of(entry, info="about"))
    assert index.find(Storage(), [shard]) == {shard: Entry(2, 7, None)}


def test_shards_of_two_sets_have_no_common_index(tmp_path):
    shards = write_set(tmp_path, "train", [1]) + write_set(tmp_path, "val", [1])
    with pytest.raises(ValueError, match=r"train-index\.json.*val-index\.json"):
        index.build(Storage(), shards)


def test_the_command_makes_the_index_of_shards_that_are_there(tmp_path):
    shards = write_set(tmp_path, "train", [2, 3])
    words = [sys.executable, "-m", "asgd.data.index", f"url={tmp_path}/train-{{0000..0001}}.tar"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path}/train-index.json: 2 shards, 5 samples\n"), ended.stderr
    found = index.find(Storage(), shards)
    assert found == {shards[0]: truth(shards[0], 2), shards[1]: truth(shards[1], 3)}
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_index_can_be_written_elsewhere(tmp_path):
    shards = write_set(tmp_path, "train", [2, 3])
    index.main(index.Options(url=f"{tmp_path}/*.tar", out=f"{tmp_path}/sub/made.json"))
    assert json.loads((tmp_path / "sub/made.json").read_text()) == index.build(Storage(), shards)
    assert index.find(Storage(), shards) == {}
