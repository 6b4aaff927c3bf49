"""Packing that is stopped anywhere goes on to the same bytes, and never mixes up one set with another."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asgd import words
from asgd.data import destination, index, pack, tar
from asgd.data.destination import Local
from asgd.data.storage import Storage
from tests.layouts import class_folders, jpeg, put
from tests.packs import CUT, contents, packed
from tests.s3 import s3


@pytest.fixture
def source(tmp_path) -> Path:
    class_folders(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def whole(source, tmp_path) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    return packed(source, tmp_path / "whole", *CUT)


class Stopped(Exception):
    pass


class Flaky(Local):
    """Stops at its n-th change of the folder, before or after it is done."""

    def __init__(self, folder: Path, stop: int, before: bool):
        super().__init__(folder)
        self.left, self.before, self.published = stop, before, []

    def publish(self, file, name):
        self.left -= 1
        if self.left == 0 and self.before:
            raise Stopped
        super().publish(file, name)
        self.published.append(name)
        if self.left == 0:
            raise Stopped

    def remove(self, name):
        self.left -= 1
        if self.left == 0:
            raise Stopped
        super().remove(name)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("stop", range(1, 10))  # classes, (record, shard) three times, index, removal of the record
def test_a_run_that_is_stopped_at_any_point_goes_on_to_the_same_bytes(
    source, whole, tmp_path, monkeypatch, stop, before
):
    out = tmp_path / "out"
    first, second = Flaky(out, stop, before), Flaky(out, 0, before)
    monkeypatch.setattr(destination, "at", lambda _: first)
    with pytest.raises(Stopped):
        packed(source, out, *CUT)
    between = contents(out)
    done = {name for name in between if name.endswith(".tar")}
    assert {name: between[name] for name in done} == {name: whole[name] for name in done}
    assert not [name for name in between if name.startswith(".")]
    monkeypatch.setattr(destination, "at", lambda _: second)
    assert packed(source, out, *CUT) == whole
    assert done.isdisjoint(second.published)


SCRIPT = """
import os, signal, sys
from asgd import words
from asgd.data import pack
from asgd.data.destination import Local
publish = Local.publish
def stopping(self, file, name):
    if name == "train-000001.tar":
        os.kill(os.getpid(), signal.{signal})
    publish(self, file, name)
Local.publish = stopping
words.main(pack.Options, pack.main, pack.USAGE, pack.SAME)
"""


def stopped_by(name: str, source: Path, out: Path) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-c", SCRIPT.format(signal=name), f"source={source}", f"out={out}", *CUT]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_ctrl_c_leaves_what_can_be_gone_on_with(source, whole, tmp_path):
    ended = stopped_by("SIGINT", source, tmp_path / "out")
    assert (ended.returncode, ended.stderr) == (130, "interrupted; run the same command again to go on\n")
    assert set(contents(tmp_path / "out")) == {"classes.json", "train-000000.tar", "train-packing.json"}
    assert packed(source, tmp_path / "out", *CUT) == whole


def test_a_killed_run_leaves_no_half_shard_under_its_name(source, whole, tmp_path):
    assert stopped_by("SIGKILL", source, tmp_path / "out").returncode == -signal.SIGKILL
    between = contents(tmp_path / "out")
    assert [name for name in between if name.endswith(".tar")] == ["train-000000.tar"]
    assert packed(source, tmp_path / "out", *CUT) == whole


def test_a_shard_that_was_lost_is_made_again(source, whole, tmp_path):
    out = tmp_path / "whole"
    (out / "train-000001.tar").write_bytes(b"half")
    assert packed(source, out, *CUT) == whole


def test_a_full_disk_is_told_and_gone_on_from(source, whole, tmp_path, monkeypatch):
    publish = Local.publish

    def full(self, file, name):
        if name == "train-000001.tar":
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(self, file, name)

    monkeypatch.setattr(Local, "publish", full)
    with pytest.raises(OSError, match=r"out: the disk is full; make room, then run the same command"):
        packed(source, tmp_path / "out", *CUT)
    monkeypatch.setattr(Local, "publish", publish)
    assert packed(source, tmp_path / "out", *CUT) == whole


@pytest.mark.parametrize(
    "change, message",
    [
        (("seed=1",), "seed=0, here it is 1"),
        (("shard_samples=6",), "shard_samples=5, here it is 6"),
        (("shard_mb=1",), "shard_mb=100.0, here it is 1.0"),
        (("split=val", "prefix=train"), "split=train, here it is val"),
    ],
)
@pytest.mark.parametrize("unfinished", [True, False])
def test_a_set_of_another_kind_is_not_mixed_up(source, whole, tmp_path, change, message, unfinished):
    out = tmp_path / "whole"
    if unfinished:
        (out / "train-index.json").rename(out / "train-packing.json")
        (out / "train-000002.tar").unlink()
    before = contents(out)
    with pytest.raises(ValueError, match=f"{message}; choose another out= or prefix=, or remove train-"):
        packed(source, out, *{word.partition("=")[0]: word for word in (*CUT, *change)}.values())
    assert contents(out) == before


def test_a_source_that_has_changed_is_not_mixed_up(source, whole, tmp_path):
    put(source / "cat/new.jpg", jpeg(99))
    with pytest.raises(ValueError, match="samples=12, here it is 13"):
        packed(source, tmp_path / "whole", *CUT)
    (source / "cat/000.JPEG").unlink()
    with pytest.raises(ValueError, match="checksum="):
        packed(source, tmp_path / "whole", *CUT)


def test_shards_of_unknown_origin_are_left_alone(source, tmp_path):
    put(tmp_path / "out/train-000007.tar", "precious")
    with pytest.raises(ValueError, match=r"holds train-000007\.tar, which is not of this set"):
        packed(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {"train-000007.tar": b"precious"}


def test_a_set_of_another_tool_is_left_alone(source, whole, tmp_path):
    path = tmp_path / "whole/train-index.json"
    path.write_text(json.dumps(json.loads(whole[path.name]) | {"packed": None}))
    before = contents(path.parent)
    with pytest.raises(ValueError, match=r"train-index\.json is that of shards which were made in another way"):
        packed(source, path.parent, *CUT)
    assert contents(path.parent) == before


def test_train_and_val_share_a_folder_if_their_classes_agree(source, tmp_path):
    class_folders(tmp_path / "more", first=50)
    files = packed(source, tmp_path / "out") | packed(tmp_path / "more", tmp_path / "out", "split=val")
    assert sorted(files) == [
        "classes.json", "train-000000.tar", "train-index.json", "val-000000.tar", "val-index.json",
    ]  # fmt: skip
    class_folders(tmp_path / "less", classes=("cat", "owl"))
    with pytest.raises(ValueError, match=r"classes\.json has other classes"):
        packed(tmp_path / "less", tmp_path / "out", "prefix=less")
    packed(tmp_path / "less", tmp_path / "out", "prefix=less", f"classes={tmp_path}/out/classes.json")
    labels = {dict(each.files)["cls"] for each in tar.samples(Storage(), f"{tmp_path}/out/less-000000.tar")}
    assert labels == {b"0", b"2"}


def test_two_at_once_do_not_write_the_same_set(source, tmp_path):
    (tmp_path / "out").mkdir()
    with Local(tmp_path / "out").lock("train"):
        with pytest.raises(ValueError, match="another process is writing train there"):
            packed(source, tmp_path / "out")
        packed(source, tmp_path / "out", "prefix=other")


@pytest.fixture
def bucket(monkeypatch):
    with s3(monkeypatch) as server:
        yield server


def test_shards_in_an_object_store_are_the_same_and_can_be_read_back(source, whole, bucket):
    pack.main(words.parse(pack.Options, [f"source={source}", f"out={bucket.url}/sets/", *CUT]))
    assert bucket.objects == {f"sets/{name}": content for name, content in whole.items()}
    storage = Storage()
    shards = storage.expand(f"{bucket.url}/sets/train-{{000000..000002}}.tar", "url")
    assert [entry.samples for entry in index.find(storage, shards).values()] == [5, 5, 2]
    assert len([sample for shard in shards for sample in tar.samples(storage, shard)]) == 12


def test_an_upload_that_fails_is_repeated_or_gone_on_with(source, whole, bucket, monkeypatch):
    command = [f"source={source}", f"out={bucket.url}/sets", *CUT]
    bucket.faults = {("PUT", "sets/train-000000.tar"): 503, ("PUT", "sets/train-000001.tar"): 403}
    with pytest.raises(ValueError, match=f"{bucket.url}/sets/train-000001.tar: no permission"):
        pack.main(words.parse(pack.Options, command))
    assert bucket.puts.count("sets/train-000000.tar") == 2
    pack.main(words.parse(pack.Options, command))
    assert bucket.objects == {f"sets/{name}": content for name, content in whole.items()}
    assert bucket.puts.count("sets/train-000000.tar") == 2
