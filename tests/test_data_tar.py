"""Broken shards are never silent, and broken samples are named."""

import gzip
import hashlib
import pickle
import tarfile
import zlib
from functools import partial
from itertools import islice

import pytest

from asgd.data import tar
from asgd.data.storage import Storage
from asgd.data.tar import DataError
from tests.shards import dataset, encode, good, numbers, write


def four(folder):
    return write(folder / "whole.tar", [(f"{number}", good(number)) for number in range(4)])


def headers(path):
    with tarfile.open(path) as archive:
        return archive.getmembers()


def read_plainly(path):
    """What a usual reader gets from a stream, e.g. webdataset's loop."""
    with tarfile.open(fileobj=open(path, "rb"), mode="r|*") as stream:
        return [(info.name, stream.extractfile(info).read()) for info in stream]


def damaged(path, change):
    content = bytearray(open(path, "rb").read())  # noqa: SIM115
    content = change(content)
    with open(path, "wb") as file:
        file.write(content)
    return path


def between_members(path):
    return damaged(path, lambda content: content[: headers(path)[4].offset])


def in_a_header(path):
    return damaged(path, lambda content: content[: headers(path)[4].offset + 100])


def flipped_header(path):
    at = headers(path)[4].offset
    return damaged(path, lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def hole_of_zeros(path):
    start, end = headers(path)[4].offset, headers(path)[6].offset
    return damaged(path, lambda content: content[:start] + bytes(end - start) + content[end:])


def joined(path):
    return damaged(path, lambda content: content + content)


def in_the_data(path):
    return damaged(path, lambda content: content[: headers(path)[4].offset_data + 10])


def in_the_padding(path):
    member = headers(path)[4]
    return damaged(path, lambda content: content[: member.offset_data + member.size + 1])


def no_end_marker(path):
    last = headers(path)[-1]
    return damaged(path, lambda content: content[: last.offset_data + 512])


SILENT = {between_members: 4, in_a_header: 4, flipped_header: 4, hole_of_zeros: 4, joined: 8}  # members left


@pytest.mark.parametrize("damage", [*SILENT, in_the_data, in_the_padding, no_end_marker])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_truncated_or_corrupt_shard_always_stops(tmp_path, damage, on_error):
    path = damage(four(tmp_path))
    data = dataset(path, on_error=on_error)
    for read in (lambda: list(data.evaluation()), data.samples, lambda: list(islice(data.batches(1, 1), 3))):
        with pytest.raises(DataError, match=r"whole\.tar: truncated, corrupt or unreadable at or after byte \d+: "):
            read()


@pytest.mark.parametrize("damage", SILENT)
def test_control_a_usual_reader_loses_samples_without_a_word(tmp_path, damage):
    path = four(tmp_path)
    assert len(read_plainly(path)) == 8
    assert len(read_plainly(damage(path))) == SILENT[damage]


def test_the_offset_is_that_of_the_damage(tmp_path):
    path = four(tmp_path)
    offset = headers(path)[4].offset
    with pytest.raises(DataError, match=f"byte {offset}: no end-of-archive marker"):
        list(tar.samples(Storage(), between_members(path)))


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>" * 100])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "page.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"page\.tar: truncated, corrupt or unreadable at or after byte 0"):
        list(tar.samples(Storage(), str(path)))


@pytest.mark.parametrize("samples", [[], [("notes", {"txt": b"hello"})]])
def test_a_shard_without_samples(tmp_path, samples):
    path = write(tmp_path / "empty.tar", samples)
    for read in (partial(tar.count, Storage()), lambda url: list(tar.samples(Storage(), url))):
        with pytest.raises(DataError, match=r"empty\.tar: holds no samples"):
            read(path)


def test_other_members_play_no_part(tmp_path):
    extra = [
        ("README", {"md": b"x"}),
        ("dir/0", {"JPG": encode(1, "JPEG"), "json": b"{}", "cls": b"7\n"}),
        ("._0", {"cls": b""}),
    ]
    path = write(tmp_path / "extra.tar", [*extra, ("1", good(1))])
    assert [sample.key for sample in tar.samples(Storage(), path)] == ["dir/0", "1"]
    assert tar.count(Storage(), path) == 2
    assert next(dataset(path).evaluation()).targets.tolist() == [7, 1]


def test_compressed_shards_and_long_names(tmp_path):
    path = write(tmp_path / "a.tar.gz", [("x" * 200 + str(number), good(number)) for number in range(3)], "w:gz")
    assert tar.count(Storage(), path) == 3
    assert numbers(next(dataset(path).evaluation())) == [0, 1, 2]


def zipped(path):
    with open(path, "rb") as file:
        return gzip.compress(file.read())


def test_what_a_gzip_file_holds_is_checked_and_joined_ones_are_no_shard(tmp_path):
    whole = zipped(four(tmp_path))
    assert zlib.decompressobj(31).decompress(whole + whole) == gzip.decompress(whole)  # control: half is left out
    wrong = {
        "joined": whole + whole,
        "checksum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
        "cut": whole[:-8],
        "flipped": whole[:100] + bytes([whole[100] ^ 255]) + whole[101:],
        "garbage": whole + b"garbage",
    }
    for name, content in wrong.items():
        (path := tmp_path / f"{name}.tar.gz").write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.tar\.gz: truncated, corrupt or unreadable at or after byte \d+"):
            list(tar.samples(Storage(), str(path)))


def test_a_checksum_of_the_whole_shard_is_compared(tmp_path):
    path = four(tmp_path)
    with open(path, "rb") as file:
        checksum = hashlib.sha256(file.read()).hexdigest()
    assert [sample.key for sample in tar.samples(Storage(), path, checksum)] == ["0", "1", "2", "3"]
    at = headers(path)[2].offset_data
    damaged(path, lambda content: content[:at] + b"!" + content[at + 1 :])
    assert len(list(tar.samples(Storage(), path))) == 4  # control: nothing else is wrong with it
    with pytest.raises(DataError, match=r"whole\.tar: damaged: its SHA-256 is [0-9a-f]{64}, not " + checksum):
        list(tar.samples(Storage(), path, checksum))


def test_the_error_survives_a_pipe():
    error = pickle.loads(pickle.dumps(DataError("a.tar: broken")))
    assert (type(error), str(error)) == (DataError, "a.tar: broken")


def test_grey_and_cmyk_become_rgb(tmp_path):
    from io import BytesIO

    from PIL import Image

    samples = []
    for mode in ("L", "CMYK"):
        Image.new(mode, (4, 4)).save(buffer := BytesIO(), "JPEG")
        samples.append((mode, {"jpeg": buffer.getvalue(), "cls": b"0"}))
    assert next(dataset(write(tmp_path / "a.tar", samples)).evaluation()).inputs.shape == (2, 3, 4, 4)


BROKEN = {
    "cut JPEG": ({"jpg": encode(0, "JPEG", 64)[:-200], "cls": b"0"}, "its image does not decode"),
    "no JPEG": ({"jpg": b"hello", "cls": b"0"}, "its image does not decode: cannot identify"),
    "cut PNG": ({"png": encode(0, "PNG", 64)[:60], "cls": b"0"}, "its image does not decode"),
    "no label": ({"png": encode(0)}, "must have exactly one .cls file, has 0"),
    "no image": ({"cls": b"0"}, "must have exactly one .jpg or .jpeg or .png file, has 0"),
    "two images": (
        {"png": encode(0), "jpg": encode(0, "JPEG"), "cls": b"0"},
        "exactly one .jpg or .jpeg or .png file, has 2",
    ),
    "two labels": ({"png": encode(0), "cls": b"0", "CLS": b"1"}, "exactly one .cls file, has 2"),
    "empty label": ({"png": encode(0), "cls": b""}, "its label b'' is not an integer of 0..9"),
    "word": ({"png": encode(0), "cls": b"cat"}, "its label b'cat' is not an integer of 0..9"),
    "float": ({"png": encode(0), "cls": b"1.0"}, "is not an integer"),
    "negative": ({"png": encode(0), "cls": b"-1"}, "its label b'-1' is not an integer of 0..9"),
    "too large": ({"png": encode(0), "cls": b"10"}, "its label 10 is not in 0..9; does dataset.classes=10 fit?"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sample_stops_naming_shard_key_and_cause(tmp_path, name):
    files, cause = BROKEN[name]
    path = write(tmp_path / "a.tar", [("0", good(0)), ("bad", files), ("2", good(2))])
    for read in (dataset(path).evaluation, lambda: dataset(path).batches(1, 1)):
        with pytest.raises(DataError) as error:
            list(islice(read(), 3))
        assert f"{path}: sample bad: " in str(error.value)
        assert cause in str(error.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sample_is_skipped_counted_and_logged(tmp_path, name, caplog):
    files, cause = BROKEN[name]
    path = write(tmp_path / "a.tar", [("0", good(0)), ("bad", files), ("2", good(2)), ("3", good(3))])
    batches = dataset(path, on_error="skip").batches(1, 1)
    first, second = next(batches), next(batches)
    assert (numbers(first), first.skipped) == ([0], 1)
    assert (numbers(second), second.skipped) == ([2, 3], 0)
    (record,) = caplog.records
    assert f"skipped: {path}: sample bad: " in record.getMessage()
    assert cause in record.getMessage()


def test_a_batch_without_a_good_sample_is_left_out_but_counted(tmp_path):
    bad = {"png": b"", "cls": b"0"}
    path = write(tmp_path / "a.tar", [("0", good(0)), ("1", bad), ("2", good(2))])
    batches = dataset(path, on_error="skip", batch_size=1).batches(1, 1)
    seen = [(numbers(batch), batch.epoch, batch.index, batch.skipped) for batch in islice(batches, 3)]
    assert seen == [([0], 0, 0, 0), ([2], 0, 2, 1), ([0], 1, 0, 0)]


def test_nothing_but_broken_samples_ends_with_an_error(tmp_path):
    path = write(tmp_path / "a.tar", [("0", {"png": b"", "cls": b"0"})])
    with pytest.raises(ValueError, match="worker 1 of 1 gets no usable sample in an epoch of 1"):
        next(dataset(path, on_error="skip").batches(1, 1))


def test_a_shard_that_vanishes_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.tar: truncated, corrupt or unreadable .*No such file"):
        list(tar.samples(Storage(), str(tmp_path / "gone.tar")))
