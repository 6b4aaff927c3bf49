"""Checkpoint files: whole or not there, the last ones kept, and tables cut to what a resumed run starts from."""

import resource
from contextlib import contextmanager

import pytest
import torch

from asgd import checkpoints
from asgd.records import EVALUATION, METRICS, UPDATES, Table
from tests.scripted import a_server, an_update, equal, facts


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
    table(folder, "stats/ps/updates.csv", UPDATES, rows=60)
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
    checkpoints.rewind(tmp_path, known)
    kept = dict(zip(names, (33, 3, 12, 18), strict=True))
    assert {name: lines(tmp_path, name) for name in names} == {n: before[n][: 1 + rows] for n, rows in kept.items()}
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "stats/worker3").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_rewinding_twice_is_rewinding_once(tmp_path):
    known = a_run(tmp_path)
    checkpoints.rewind(tmp_path, known)
    before = lines(tmp_path, "stats/ps/updates.csv")
    checkpoints.rewind(tmp_path, known)
    assert lines(tmp_path, "stats/ps/updates.csv") == before
