"""Whole runs on shards in a store, behind a network that breaks: every sample once, or an end that says why."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from asgd import results
from asgd import run as command
from asgd.workers import Worker
from tests.emulator import emulator
from tests.flaky import cut, reset, status, whole
from tests.runs import pushes, run
from tests.scripted import a_job
from tests.shards import numbers, write_set

SIZES = [11, 7, 16, 9, 12, 14]  # samples in each shard, some 20 to 40 kB
SAMPLES = sum(SIZES)
BATCH = 4
FAULTS = [cut(5000), whole, reset(9000), cut(3000), whole, status(503), whole, whole]
SHARDS = [f"/bucket/train-{number:04d}.tar" for number in range(len(SIZES))]
TRAIN, VAL = "dataset.url=gs://bucket/train-*.tar", "dataset.val_url=gs://bucket/val-0000.tar"
ASSIGNED = pytest.mark.parametrize("assignment", ["static", "leased"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    train, val = write_set(folder, "train", SIZES), write_set(folder, "val", [8])
    with emulator() as running:
        for path in map(Path, [*train, *val]):
            running.put("bucket", path.name, path.read_bytes())
        first = Path(train[0]).read_bytes()
        running.put("bucket", "empty.tar", b"")
        running.put("bucket", "cut.tar", first[: len(first) // 2])
        running.put("bucket", "text.tar", b"no such thing as an archive\n" * 100)
        yield running


@pytest.fixture
def options(proxy) -> tuple[str, ...]:
    """Two workers that keep in step; inputs are the pixels, 0..255, which tell the number of the sample."""
    store = (f"dataset.storage.endpoint={proxy.url}", "dataset.storage.retry_seconds=20")
    pixels = ("dataset.augment._target_=asgd.data.augment.CentreCrop", "dataset.normalise.mean=[0,0,0]")
    levels = f"dataset.normalise.std=[{','.join([str(1 / 255)] * 3)}]"
    shape = ("dataset.size=4", f"dataset.batch_size={BATCH}", "dataset.shuffle=5", "optimizer.lr=1e-9")
    workers = ("workers=2", "topology=ssp", "topology.slack=2")
    return ("model=linear", "dataset=shards", TRAIN, VAL, *store, *pixels, levels, *shape, *workers)


@pytest.fixture
def read(monkeypatch) -> Counter:
    """How often workers in this process have taken each batch, as (worker, epoch, the numbers of its samples)."""
    taken, original = Counter(), Worker.next

    def next(self, batches):
        batch = original(self, batches)
        taken[self.rank, batch.epoch, tuple(numbers(batch))] += 1
        return batch

    monkeypatch.setattr(Worker, "next", next)
    return taken


def assert_each_sample_once(read, least: int) -> None:
    """In every epoch, at least so many, that no worker is still in; of each batch, however often it was taken."""
    last = min(max(epoch for rank, epoch, _ in read if rank == worker) for worker in (1, 2))
    assert last >= least
    for epoch in range(last):
        batches = {found for _, each, found in read if each == epoch}
        assert sorted(itertools.chain(*batches)) == list(range(SAMPLES))


def epochs(folder: Path) -> dict[int, int]:
    """The samples in each epoch that no worker of a finished run was still in, by the workers' own tables."""
    rows = results.metrics(folder)
    assert not rows.duplicated(["worker", "epoch", "batch"]).any()
    last = rows.groupby("worker").epoch.max().min()
    return rows[rows.epoch < last].groupby("epoch").samples.sum().to_dict()


@ASSIGNED
def test_every_sample_comes_once_whatever_the_network_does(tmp_path, options, proxy, read, assignment):
    proxy.script |= {path: FAULTS * 2 for path in SHARDS}
    assigned = f"dataset.assignment={assignment}"
    folder = run(tmp_path / "run", assigned, "engine=threads", "budget.updates=80", problem=options)
    assert results.summary(folder)["ended"] == "budget" and results.summary(folder)["failed_workers"] == 0
    assert set(read.values()) == {1}
    assert_each_sample_once(read, least=2)
    resumed = [path for path in SHARDS if any(proxy.ranges(path))]
    assert len(resumed) >= 4 and all(len(proxy.ranges(path)) > 3 for path in SHARDS)  # every epoch anew: no cache here


@ASSIGNED
def test_a_run_is_continued_inside_an_epoch(tmp_path, options, proxy, read, assignment):
    words = ("engine=threads", f"dataset.assignment={assignment}")
    folder = run(tmp_path / "run", *words, "budget.updates=27", problem=options)
    before = read.copy()
    proxy.script |= {path: FAULTS * 2 for path in SHARDS}
    run(folder, *words, "budget.updates=80", f"resume={folder}", problem=options)
    assert_each_sample_once(read, least=2)
    again = {key[1:] for key in read - before} & {key[1:] for key in before}
    assert len(again) <= 2  # the batches that the end came before, one of each worker
    applied = pushes(folder).query("applied == 1")
    assert not applied.duplicated(["worker", "round"]).any() and len(applied) == 80


@pytest.mark.parametrize(
    "more",
    [
        "dataset.loaders=0",
        *(pytest.param(f"dataset.{each}", marks=pytest.mark.slow) for each in ("loaders=1", "assignment=leased")),
    ],
)
def test_processes_stream_through_faults(start, options, proxy, more):
    proxy.script |= {path: FAULTS * 2 for path in SHARDS}
    process = start(*options, more, "budget.epochs=3", "evaluate.every=0")
    output = process.wait()
    assert process.code == 0, output
    assert "6 shards have no index: all are read" in output and any(any(proxy.ranges(path)) for path in SHARDS)
    summary, complete = results.summary(process.folder), epochs(process.folder)
    assert (summary["ended"], summary["failed_workers"]) == ("budget", 0)
    assert 3 * SAMPLES <= summary["samples"] < 3 * SAMPLES + BATCH
    assert set(complete) >= {0} and set(complete.values()) == {SAMPLES}


def test_what_stays_unreachable_ends_its_worker_with_shard_byte_and_cause(start, options, proxy):
    proxy.script[SHARDS[3]] = [cut(1500), cut(1500), *[status(503)] * 1000]  # the second one in small pieces
    known = (f"dataset.samples={SAMPLES}", "dataset.storage.retry_seconds=0.5")  # nobody counts, so nobody reads before
    process = start(*options, *known, "budget.epochs=5", "engine=threads", "engine.on_worker_failure=stop")
    output = process.wait()
    assert process.code == 1 and "gs://bucket/train-0003.tar: at byte 1500 of " in output and "503" in output
    rows = results.updates(process.folder)
    assert results.summary(process.folder)["ended"] == "error" and "join" in set(rows.event)
    logs = [(process.folder / f"stats/worker{rank}/worker.log").read_text() for rank in (1, 2)]
    assert any("at byte 1500" in log and "trying again" in log for log in logs)


MISTAKES = {
    "no bucket": ("dataset.url=gs://elsewhere/x.tar", "dataset.url: gs://elsewhere/x.tar: no such bucket"),
    "no object": ("dataset.val_url=gs://bucket/y.tar", "dataset.val_url: gs://bucket/y.tar: no such object"),
    "no match": ("dataset.url=gs://bucket/tr-*.tar", "dataset.url: no such object: gs://bucket/tr-*.tar"),
    "empty": ("dataset.url=gs://bucket/empty.tar", "dataset.url: gs://bucket/empty.tar is empty: write it again"),
    "truncated": ("dataset.val_url=gs://bucket/cut.tar", "gs://bucket/cut.tar: truncated, corrupt or unreadable"),
    "no archive": ("dataset.url=gs://bucket/text.tar", "gs://bucket/text.tar: truncated, corrupt or unreadable"),
    "a later one": ("dataset.url=[gs://bucket/train-0000.tar,gs://bucket/cut.tar]", "gs://bucket/cut.tar: truncated"),
}


def refusal(tmp_path: Path, *words: str) -> str:
    """What is said of a run that is refused before it starts, and leaves nothing."""
    config = a_job(*words, problem=(), limits=("budget.epochs=2",)).config
    with pytest.raises(command.Failed) as error:
        command.prepare(config, tmp_path, list(words))
    assert list(tmp_path.iterdir()) == [] and error.value.__cause__  # so it ends with code 2
    return str(error.value)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_streamed_is_named_before_anything_starts(tmp_path, options, mistake):
    word, message = MISTAKES[mistake]
    assert message in refusal(tmp_path, *options, word)


def test_who_may_not_read_is_told_before_anything_starts(start, options, proxy):
    proxy.always = status(403)
    process = start(*options, TRAIN.replace("train-*", "train-0000"))
    output = process.wait()
    assert process.code == 2 and "Traceback" not in output
    assert "gs://bucket/train-0000.tar: no permission, or not there: check GOOGLE_APPLICATION_CREDENTIALS" in output
    assert not process.folder.exists()


@pytest.mark.slow
def test_with_a_cache_no_shard_is_fetched_twice_by_any_process(start, options, proxy, tmp_path):
    process = start(*options, f"dataset.cache_dir={tmp_path}/cache", "budget.epochs=4", "evaluate.every=20")
    output = process.wait()
    assert process.code == 0, output
    assert {path: len(proxy.ranges(path)) for path in SHARDS} == dict.fromkeys(SHARDS, 1)
    assert len(proxy.ranges("/bucket/val-0000.tar")) == 1
    assert set(epochs(process.folder).values()) == {SAMPLES}
    assert sum(method == "HEAD" for method, path, _ in proxy.requests if path in SHARDS) > 2 * len(SHARDS)
