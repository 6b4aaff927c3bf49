"""Checkpoint files: whole or not there, the last ones kept, and tables cut to what a resumed run starts from."""

import hashlib
import os
import resource
import shutil
import struct
import zipfile
from contextlib import contextmanager

import pytest
import torch

from asgd import checkpoints, results
from asgd.records import EVALUATION, METRICS, UPDATES, Table
from tests.runs import BRIEF, finished, parameters, pushes, run
from tests.scripted import a_job, a_server, an_update, equal, facts


def state(version: int, size: int = 10) -> dict:
    return {"server": {"parameters": {"version": version, "params": torch.full((size,), float(version))}}}


def files(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@contextmanager
def no_room_for_files_beyond(size: int):
    """Writing more than ``size`` bytes into a file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_was_saved_is_loaded(tmp_path):
    path = checkpoints.save(tmp_path, state(7), keep=1)
    assert path == tmp_path / "checkpoints" / "000000007.pt"
    assert equal(checkpoints.load(tmp_path), state(7)) and files(tmp_path) == ["000000007.pt"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_are_kept(tmp_path, keep):
    for version in (5, 10, 200, 1500):
        checkpoints.save(tmp_path, state(version), keep)
    kept = (5, 10, 200, 1500)[-keep:]
    assert files(tmp_path) == [f"{version:09d}.pt" for version in kept]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no archive"])
def test_where_the_newest_is_torn_the_one_before_is_used(tmp_path, damage, caplog):
    checkpoints.save(tmp_path, state(1), keep=2)
    newest = checkpoints.save(tmp_path, state(2), keep=2)
    newest.write_bytes(damage(newest.read_bytes()))
    assert equal(checkpoints.load(tmp_path), state(1))
    assert f"{newest} cannot be read" in caplog.text


@pytest.mark.parametrize("place", ["beginning", "tensor", "end of what torch wrote", "digest"])
def test_one_bit_that_has_changed_anywhere_is_noticed(tmp_path, place, caplog):
    """Also where torch would load other numbers without a word."""
    checkpoints.save(tmp_path, state(1), keep=2)
    newest = checkpoints.save(tmp_path, state(2, size=100_000), keep=2)
    data = bytearray(newest.read_bytes())
    end = len(data) - checkpoints.DIGEST - len(checkpoints.MARK)
    at = {"beginning": 0, "tensor": data.index(struct.pack("<f", 2.0) * 100) + 200, "digest": len(data) - 1}
    data[at.get(place, end - 1)] ^= 1
    newest.write_bytes(data)
    if place == "tensor":
        assert not equal(torch.load(newest, weights_only=True), state(2, size=100_000))
    assert equal(checkpoints.load(tmp_path), state(1))
    assert f"{newest} cannot be read (its checksum is another: it has changed since it was written)" in caplog.text


def test_a_file_cut_off_anywhere_is_not_taken_for_whole(tmp_path):
    checkpoints.save(tmp_path, state(1), keep=2)
    newest = checkpoints.save(tmp_path, state(2), keep=2)
    data = newest.read_bytes()
    for size in range(0, len(data) - checkpoints.DIGEST - len(checkpoints.MARK), 7):
        newest.write_bytes(data[:size])
        assert equal(checkpoints.load(tmp_path), state(1)), size
    for size in range(len(data) - checkpoints.DIGEST - len(checkpoints.MARK) + 1, len(data)):  # in the checksum
        newest.write_bytes(data[:size])
        assert equal(checkpoints.load(tmp_path), state(1)), size


def test_a_damaged_file_is_named_once_however_often_it_is_tried(tmp_path, caplog):
    checkpoints.save(tmp_path, state(1), keep=2)
    checkpoints.save(tmp_path, state(2), keep=2).write_bytes(b"")
    checkpoints.load(tmp_path), checkpoints.load(tmp_path)
    assert len(caplog.records) == 1


def test_a_checkpoint_without_a_checksum_is_loaded_as_before(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save(state(3), tmp_path / "checkpoints/000000003.pt")
    assert equal(checkpoints.load(tmp_path), state(3))


def test_torch_and_zip_read_a_file_with_a_checksum(tmp_path):
    path = checkpoints.save(tmp_path, state(7), keep=1)
    assert equal(torch.load(path, weights_only=True), state(7)) and zipfile.ZipFile(path).testzip() is None
    assert (
        hashlib.sha256(path.read_bytes()[: -checkpoints.DIGEST - len(checkpoints.MARK)]).digest()
        == (path.read_bytes()[-checkpoints.DIGEST :])
    )


def test_where_all_are_damaged_the_error_says_so(tmp_path):
    for version in (1, 2):
        checkpoints.save(tmp_path, state(version), keep=2).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"none of its 2 checkpoints can be read; .* checkpoint\.every"):
        checkpoints.load(tmp_path)


def test_the_old_ones_go_when_the_new_one_is_on_the_disk_under_its_name(tmp_path, monkeypatch):
    """What the disk is told, in this order: the file, its name, and only then that the old one is gone."""
    checkpoints.save(tmp_path, state(1), keep=1)
    told = []

    def tell(name, call):
        def told_first(*arguments, **keywords):
            told.append((name, files(tmp_path)))
            return call(*arguments, **keywords)

        return told_first

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, tell(name, getattr(os, name)))
    checkpoints.save(tmp_path, state(2), keep=1)
    old, new, written = "000000001.pt", "000000002.pt", "000000002.tmp"
    assert told == [("fsync", [old, written]), ("replace", [old, written]), ("fsync", [old, new])]
    assert files(tmp_path) == [new]


def test_without_a_checkpoint_the_error_says_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint there; a run writes them with checkpoint\.every"):
        checkpoints.load(tmp_path)


def test_a_write_that_fails_leaves_the_good_ones_and_no_rest(tmp_path):
    checkpoints.save(tmp_path, state(1), keep=1)
    with no_room_for_files_beyond(10_000), pytest.raises((OSError, RuntimeError)):
        checkpoints.save(tmp_path, state(2, size=100_000), keep=1)
    assert equal(checkpoints.load(tmp_path), state(1))
    assert files(tmp_path) == ["000000001.pt"]


def test_a_write_that_fails_leaves_the_file_of_the_same_version(tmp_path):
    checkpoints.save(tmp_path, state(1), keep=1)
    with no_room_for_files_beyond(10_000), pytest.raises((OSError, RuntimeError)):
        checkpoints.save(tmp_path, state(1, size=100_000), keep=1)
    assert equal(checkpoints.load(tmp_path), state(1))


def test_who_reads_while_the_same_version_is_written_again_reads_the_old_one_whole(tmp_path):
    with open(checkpoints.save(tmp_path, state(1, size=10), keep=1), "rb") as reader:
        checkpoints.save(tmp_path, state(1, size=20), keep=1)
        assert equal(torch.load(reader, weights_only=True), state(1, size=10))
    assert equal(checkpoints.load(tmp_path), state(1, size=20))


# The thread


def test_what_was_submitted_is_written_when_close_returns(tmp_path):
    thread = checkpoints.Checkpoints(tmp_path, keep=2)
    thread.submit(state(3, size=1_000_000))
    thread.close()
    assert equal(checkpoints.load(tmp_path), state(3, size=1_000_000))
    assert not thread.thread.is_alive()


def test_of_many_submitted_at_once_the_newest_is_written(tmp_path):
    thread = checkpoints.Checkpoints(tmp_path, keep=2)
    for version in range(1, 30):
        thread.submit(state(version, size=10_000))
    thread.close()
    assert checkpoints.load(tmp_path)["server"]["parameters"]["version"] == 29


def test_a_failed_checkpoint_is_said_and_does_not_prevent_the_next(tmp_path, caplog):
    thread = checkpoints.Checkpoints(tmp_path, keep=1)
    with no_room_for_files_beyond(10_000):
        thread.submit(state(1, size=100_000))
        while "no checkpoint at version 1" not in caplog.text:
            assert thread.thread.is_alive()
    thread.submit(state(2))
    thread.close()
    assert equal(checkpoints.load(tmp_path), state(2))


def test_training_on_does_not_change_a_submitted_state(tmp_path):
    adam = {"optimizer": lambda params: torch.optim.Adam(params, lr=0.1)}
    server = a_server(1, **adam)
    server.join(1, 10, 0.0), server.push(an_update(1), 1.0)
    taken, then = server.state_dict(1.0), facts(server)["state"]
    for round in (1, 2, 3):
        server.push(an_update(1, round, value=5.0), 2.0)
    taken["counts"].pop("duplicate"), taken.pop("seconds"), then.pop("seconds")
    assert equal(taken, then)


# Rewinding the tables


def table(folder, name: str, fields: list[str], rows: int, **columns) -> None:
    """A table whose rows hold their number, but for ``columns`` with a function of it."""
    writer = Table(folder / name, fields)
    for number in range(rows):
        writer.row(*(columns[field](number) if field in columns else number for field in fields))
    writer.close()


def lines(folder, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def a_run(folder) -> dict:
    """Tables of a run that went on after its checkpoint at version 20, event 33; the state of that checkpoint."""
    events = ["push", "push", "leave", "join"]
    table(folder, "stats/ps/updates.csv", UPDATES, rows=60, event=lambda number: events[number % 4])
    table(folder, "stats/ps/evaluation.csv", EVALUATION, rows=6, version=lambda number: 10 * number)
    table(folder, "stats/worker1/training_metrics.csv", METRICS, rows=25)
    table(folder, "stats/worker2/training_metrics.csv", METRICS, rows=18)
    (folder / "summary.json").write_text("{}")
    ledger = {1: {"round": 12}, 2: {"round": 18}, 3: {"round": 4}}
    return {"server": {"parameters": {"version": 20}, "ledger": ledger}, "events": 33}


def test_rewinding_leaves_exactly_what_the_checkpoint_knows(tmp_path):
    names = ["stats/ps/updates.csv", "stats/ps/evaluation.csv"]
    names += [f"stats/worker{worker}/training_metrics.csv" for worker in (1, 2)]
    known = a_run(tmp_path)
    before = {name: lines(tmp_path, name) for name in names}
    assert checkpoints.rewind(tmp_path, known) == 13  # of the rows 33 to 59: 33, 36, 37, 40, 41 ... 56, 57
    kept = dict(zip(names, (33, 3, 12, 18), strict=True))
    assert {name: lines(tmp_path, name) for name in names} == {n: before[n][: 1 + rows] for n, rows in kept.items()}
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "stats/worker3").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_rewinding_twice_is_rewinding_once(tmp_path):
    known = a_run(tmp_path)
    checkpoints.rewind(tmp_path, known)
    before = lines(tmp_path, "stats/ps/updates.csv")
    assert checkpoints.rewind(tmp_path, known) == 0
    assert lines(tmp_path, "stats/ps/updates.csv") == before


# Whole runs

MLP = ("model=mlp", "dataset=digits", "dataset.batch_size=8")
OPTIONS = ("engine=virtual", "workers=3", "checkpoint.every=20", "checkpoint.keep=9")


def going_on(folder, updates: int):
    """The run in the folder goes on to so many updates, and is saved there."""
    words = (*OPTIONS, f"resume={folder}", f"budget.updates={updates}")
    return finished(folder, a_job(*words, problem=MLP, limits=BRIEF))


def dies_after(folder, updates: int) -> None:
    """The run goes on to so many updates, and is as if it had been killed then, before it was saved."""
    shutil.copytree(folder / "checkpoints", folder / "before")
    going_on(folder, updates)
    shutil.rmtree(folder / "checkpoints")
    (folder / "before").rename(folder / "checkpoints")
    (folder / "summary.json").unlink()


def rolled_back(folder) -> int:
    return results.summary(folder)["rolled_back"]


def test_what_was_rolled_back_is_counted_over_all_resumptions(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = run(tmp_path / "run", *OPTIONS, "budget.updates=40", problem=MLP)
    assert rolled_back(folder) == 0
    dies_after(folder, 50)
    going_on(folder, 60)
    assert rolled_back(folder) == 10 and "resumed at version 40, 10 pushes rolled back so far" in caplog.text
    dies_after(folder, 63)
    going_on(folder, 70)
    assert rolled_back(folder) == 13
    going_on(folder, 75)
    assert rolled_back(folder) == 13
    assert list(pushes(folder).version) == list(range(1, 76))


def test_who_dies_again_before_the_next_checkpoint_has_not_forgotten_the_first_time(tmp_path):
    folder = run(tmp_path / "run", *OPTIONS, "budget.updates=40", problem=MLP)
    dies_after(folder, 50)
    checkpoints.resume(folder, keep=9)  # all that a life does which ends before its first update
    assert len(pushes(folder)) == 40
    dies_after(folder, 47)
    going_on(folder, 60)
    assert rolled_back(folder) == 10 + 7


def test_a_run_goes_on_from_the_last_good_one(tmp_path, caplog):
    folder = run(tmp_path / "run", *OPTIONS, "budget.updates=20", problem=MLP)
    good = parameters(folder)
    newest = going_on(folder, 40) / "checkpoints/000000040.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 64
    newest.write_bytes(data)
    assert torch.equal(parameters(folder), good)
    going_on(folder, 40)
    assert f"{newest} cannot be read" in caplog.text and rolled_back(folder) == 20
    assert checkpoints.load(folder)["server"]["parameters"]["version"] == 40
    assert list(pushes(folder).version) == list(range(1, 41)) and not torch.equal(parameters(folder), good)


def test_a_run_goes_on_where_the_disk_is_full(tmp_path, caplog):
    folder = run(tmp_path / "run", *OPTIONS, "budget.updates=20", problem=MLP)
    before = (folder / "checkpoints/000000020.pt").read_bytes()
    with no_room_for_files_beyond(len(before) // 2):
        going_on(folder, 60)
    assert (results.summary(folder)["ended"], results.summary(folder)["updates"]) == ("budget", 60)
    assert "no checkpoint at version 60: " in caplog.text
    assert files(folder) == ["000000020.pt"] and (folder / "checkpoints/000000020.pt").read_bytes() == before
    going_on(folder, 70)
    assert rolled_back(folder) == 40 and results.summary(folder)["updates"] == 70


def test_a_run_is_resumed_where_the_disk_is_full(tmp_path, caplog):
    folder = run(tmp_path / "run", *OPTIONS, "budget.updates=40", problem=MLP)
    dies_after(folder, 50)
    before = (folder / "checkpoints/000000040.pt").read_bytes()
    with no_room_for_files_beyond(len(before) // 2):
        going_on(folder, 60)
    assert rolled_back(folder) == 10 and "no checkpoint at version 40: " in caplog.text
    assert (folder / "checkpoints/000000040.pt").read_bytes() == before
