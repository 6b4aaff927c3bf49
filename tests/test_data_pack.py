"""What is packed is what was given, cut and shuffled as told; what is wrong is told before anything is written."""

import json
import os
import shutil
import sys
import tarfile
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from asgd import words
from asgd.data import index, pack
from asgd.data.destination import Local
from asgd.data.storage import Storage
from tests.layouts import class_folders, jpeg, put
from tests.packs import CUT, all_keys, contents, keys, packed


@pytest.fixture
def source(tmp_path) -> Path:
    class_folders(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def whole(source, tmp_path) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    return packed(source, tmp_path / "whole", *CUT)


def test_the_files_are_shards_an_index_and_the_classes(whole, tmp_path):
    shards = [f"train-00000{number}.tar" for number in range(3)]
    assert sorted(whole) == ["classes.json", *shards, "train-index.json"]
    urls = [str(tmp_path / "whole" / shard) for shard in shards]
    found = index.find(Storage(), urls)
    expected = [(n, len(whole[s]), sha256(whole[s]).hexdigest()) for n, s in zip((5, 5, 2), shards, strict=True)]
    assert list(found.values()) == expected
    assert index.build(Storage(), urls)["shardlist"] == json.loads(whole["train-index.json"])["shardlist"]


def test_members_have_no_owner_and_no_time(whole, tmp_path):
    with tarfile.open(tmp_path / "whole/train-000000.tar") as archive:
        facts = {(each.mtime, each.uid, each.gid, each.uname, each.gname, each.mode, each.type) for each in archive}
    assert facts == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}


def test_equal_inputs_give_equal_bytes_wherever_and_whenever_they_lie(source, whole, tmp_path):
    shutil.copytree(source, tmp_path / "elsewhere/copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "elsewhere/copy").rglob("*"):
        os.utime(path, (1, 1))
    assert packed(tmp_path / "elsewhere/copy", tmp_path / "again", *CUT) == whole


def test_the_seed_decides_on_the_order_and_null_keeps_the_sources(source, tmp_path):
    orders = {}
    for seed in ("0", "1", "null"):
        packed(source, tmp_path / seed, f"seed={seed}")
        orders[seed] = all_keys(tmp_path / seed)
    assert orders["null"] == sorted(orders["0"]) == sorted(orders["1"])
    assert len({tuple(order) for order in orders.values()}) == 3


@pytest.mark.parametrize("limit", [30_000, 21_000, 1])
def test_no_shard_is_larger_than_told_and_none_could_take_another_sample(tmp_path, limit):
    for number in range(30):
        put(tmp_path / f"data/{'ab'[number % 2]}/{number}.jpg", jpeg(number, size=8 + 3 * (number % 7)))
    files = packed(tmp_path / "data", tmp_path / "out", f"shard_mb={limit / 1e6}")
    shards = [tmp_path / "out" / name for name in sorted(files) if name.endswith(".tar")]
    assert sum(len(keys(shard)) for shard in shards) == 30
    for shard, following in pairwise(shards):
        with tarfile.open(shard) as this, tarfile.open(following) as other:
            end = max(member.offset_data + -(-member.size // 512) * 512 for member in this)
            first = sum(512 + -(-member.size // 512) * 512 for member in other.getmembers()[:2])
        assert shard.stat().st_size <= limit or len(keys(shard)) == 1
        assert -(-(end + first + 1024) // 10240) * 10240 > limit


def test_names_that_need_a_longer_header_come_through(tmp_path):
    name = "n" * 120
    for label in ("a", "b"):
        put(tmp_path / "data" / label / f"{name}.jpg", jpeg(1))
        put(tmp_path / "data" / label / "é ü.jpg", jpeg(2))
    packed(tmp_path / "data", tmp_path / "out")
    assert sorted(all_keys(tmp_path / "out")) == sorted(f"{c}/{n}" for c in "ab" for n in (name, "é ü"))


def nothing(folder):
    for path in folder.rglob("*.JPEG"):
        path.unlink()


def empty_class(folder):
    (folder / "ant").mkdir()


def no_classes(folder):
    put(folder / "stray.jpg", jpeg(1))


def too_deep(folder):
    put(folder / "cat/more/x.jpg", jpeg(1))


def same_key(folder):
    put(folder / "cat/000.png", jpeg(1, kind="PNG"))


def bitmap(folder):
    put(folder / "cat/x.bmp", b"BM")


def broken(folder):
    put(folder / "cat/000.JPEG", b"\xff\xd8\xff nothing")
    put(folder / "dog/001.JPEG", b"")


def one_class(folder):
    shutil.rmtree(folder / "cat"), shutil.rmtree(folder / "dog")


BAD = {
    nothing: ("no pictures",),
    empty_class: ("no pictures in ant",),
    no_classes: ("stray.jpg lies in no class folder", "mapping=FILE"),
    too_deep: ("cat/more/x.jpg lies too deep", "source="),
    same_key: ("cat/000.JPEG and cat/000.png have the same key cat/000",),
    bitmap: ("cat/x.bmp: must be JPEG or PNG",),
    broken: ("2 broken pictures", "cat/000.JPEG", "dog/001.JPEG"),
    one_class: ("only one class, owl",),
}


@pytest.mark.parametrize("harm", BAD)
def test_bad_pictures_are_told_before_anything_is_written(source, tmp_path, harm):
    harm(source)
    with pytest.raises(ValueError) as caught:
        packed(source, tmp_path / "out")
    assert all(part in str(caught.value) for part in BAD[harm])
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "options, message",
    [
        (("shard_mb=0",), "shard_mb=0.0: must be above 0"),
        (("shard_mb=nan",), "shard_mb=nan: must be above 0"),
        (("shard_samples=0",), "shard_samples=0: must be at least 1"),
        (("shard_samples=two",), "shard_samples=two: must be an integer or null"),
        (("seed=-1",), "seed=-1: must be at least 0"),
        (("split=test",), "split=test: must be train or val"),
        (("prefix=a/b",), "prefix=a/b: must be of letters"),
        (("verify=maybe",), "verify=maybe: must be true or false"),
        (("classes=none.txt",), "classes=none.txt: no such file"),
        (("classes=cat,cat,owl",), "must be different names"),
        (("classes=cat,owl",), "no such class: dog"),
        (("mapping=none.txt",), "mapping=none.txt: cannot be read"),
        (("sed=1",), r"no option sed \(did you mean seed\?\)"),
        (("seed=1", "seed=2"), "seed is given twice"),
    ],
)
def test_bad_options_are_told_before_anything_is_written(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        packed(source, tmp_path / "out", *options)
    assert contents(tmp_path / "out") == {}


def test_a_source_or_an_out_that_cannot_be(source, tmp_path):
    with pytest.raises(ValueError, match="none: no such file or folder"):
        packed(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot write there"):
        packed(source, put(tmp_path / "file", "x") / "out")
    with pytest.raises(ValueError, match="must be a folder, or a whole zip or tar"):
        packed(tmp_path / "file", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot read ftp"):
        packed(source, "ftp://host/out")


def test_too_little_room_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(Local, "free", lambda self: 12 * 4 * 512 - 1)  # a header and a block for picture and label
    with pytest.raises(ValueError, match=r"0 MB to write and 0 MB free"):
        packed(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_help_lists_every_option_with_its_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pack", "--help"])
    words.main(pack.Options, pack.main, pack.USAGE, pack.SAME)
    text = capsys.readouterr().out
    assert all(
        f"  {line} " in text for line in ("source=...", "seed=0", "shard_mb=100.0", "classes=null", "verify=true")
    )


def test_the_commands_of_the_documentation_can_be_given():
    text = (Path(__file__).parents[1] / "docs/data.md").read_text()
    commands = [line.split()[3:] for line in text.splitlines() if line.startswith("python -m asgd.data.pack ")]
    assert len(commands) >= 6
    for given in commands:
        assert words.parse(pack.Options, given).source


@pytest.mark.parametrize("word, code, message", [("ssource=x", 2, "did you mean source?"), ("x", 2, "key=value")])
def test_mistakes_end_the_command_with_one_line(monkeypatch, capsys, word, code, message):
    monkeypatch.setattr(sys, "argv", ["pack", word])
    with pytest.raises(SystemExit) as ended:
        words.main(pack.Options, pack.main, pack.USAGE, pack.SAME)
    assert ended.value.code == code
    assert message in (text := capsys.readouterr().err) and text.count("\n") == 1
