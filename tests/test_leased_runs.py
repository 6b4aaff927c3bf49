"""Whole runs whose server gives out the shards: every batch of an epoch once, whoever is fast, fails or comes back."""

import itertools
from collections import Counter

import pandas as pd
import pytest

from asgd import checkpoints, results
from asgd.data.leases import Lease, Leases
from tests.runs import parameters, record, replayed, run
from tests.shards import write_set

SIZES = [5, 1, 4, 7, 2, 6, 3]
BATCHES = sum(-(-size // 2) for size in SIZES)  # in an epoch
SPEEDS = ("timing=none", "+timing.compute=[0.001,0.001,0.004]")


@pytest.fixture
def problem(tmp_path):
    train, (val,) = write_set(tmp_path, "train", SIZES), write_set(tmp_path, "val", [4])
    places = (f"dataset.url=[{','.join(train)}]", f"dataset.val_url={val}")
    shape = ("dataset.size=4", "dataset.augment.pad=1", "dataset.batch_size=2", "dataset.shuffle=3")
    return ("model=linear", "dataset=cifar10", *places, *shape, "dataset.assignment=leased", "workers=3")


@pytest.fixture
def done(monkeypatch):
    """How often the server was told of each batch, as (epoch, number)."""
    told, original = Counter(), Leases.done

    def counted(self, worker, epoch, number):
        told[epoch, number] += 1
        original(self, worker, epoch, number)

    monkeypatch.setattr(Leases, "done", counted)
    return told


def assert_whole(told: Counter, folder) -> None:
    """Each batch of each epoch that was begun has come exactly once, or is still to come by the book at the end."""
    book = checkpoints.load(folder)["server"]["leases"]
    open_or_free = [*book["queue"], *(lease for leases in book["open"].values() for lease in leases)]
    to_come = Counter(
        (lease.epoch, lease.base + batch)
        for lease in itertools.starmap(Lease, open_or_free)
        for batch in range(lease.first, lease.stop)
    )
    begun = {(epoch, number): 1 for epoch in range(book["epoch"]) for number in range(BATCHES)}
    assert told + to_come == begun and book["epoch"] > 2


def assert_accounted(folder) -> None:
    """By ``leases.csv`` nothing is lent to two at once, and what comes back is what is lent next or was done before."""
    lent = {}
    for row in pd.read_csv(folder / "stats/ps/leases.csv").itertuples():
        key = row.epoch, row.stop
        if row.event == "lease":
            assert key not in lent or lent[key] == ("back", row.first)
            lent[key] = "lease", row.first
        else:
            assert lent[key][0] == "lease" and lent[key][1] <= row.first
            lent[key] = "back", row.first


OTHERS = ("k_async", "ringmaster", "local_sgd")


@pytest.mark.parametrize(
    "topology", ["async", "sync", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]
)
def test_virtual_workers_share_each_epoch(tmp_path, problem, done, topology):
    updates = 12 if topology == "local_sgd" else 200
    options = ["engine=virtual", f"topology={topology}", "timing=straggler", f"budget.updates={updates}"]
    source = run(tmp_path / "run", *options, problem=problem)
    if topology == "local_sgd":  # the server hears of the last batch of a round
        pushed = results.updates(source).query("event == 'push'")
        assert pushed.samples.sum() > 2 * sum(SIZES) and set(done.values()) == {1}
    else:
        assert_whole(done, source)
    told = dict(done)
    assert replayed(source, tmp_path / "replay")["equal"]
    assert record(tmp_path / "replay") == record(source)
    assert done == {address: 2 * count for address, count in told.items()}


def test_a_fast_worker_reads_more(tmp_path, problem):
    source = run(tmp_path / "run", "engine=virtual", *SPEEDS, "budget.updates=300", problem=problem)
    pushes = results.updates(source).query("event == 'push'").groupby("worker").size()
    assert pushes[1] > 3 * pushes[3]
    leases = pd.read_csv(source / "stats/ps/leases.csv").query("event == 'lease' and epoch < 5")
    assert sorted(zip(leases.epoch, leases["first"], leases["stop"], strict=True)) == intervals(epochs=5)
    assert leases.groupby("worker").size()[1] > 2 * leases.groupby("worker").size()[3]


def intervals(epochs: int) -> list:
    """(epoch, first, stop) of every shard, in the orders that a book of leases of its own gives them."""
    book = Leases(lambda: [-(-size // 2) for size in SIZES], seed=0)
    granted = [book._next() for _ in range(epochs * len(SIZES))]
    return sorted((lease.epoch, lease.base + lease.first, lease.base + lease.stop) for lease in granted)


@pytest.mark.parametrize("gradients", ["single", "stacked"])
def test_what_is_computed_ahead_changes_nothing(tmp_path, problem, gradients):
    options = ("engine=virtual", "timing=cvb_homogeneous", "budget.updates=100")
    one = run(tmp_path / "one", *options, "engine.at_once=1", problem=problem)
    many = run(tmp_path / "many", *options, f"engine.gradients={gradients}", problem=problem)
    lines = [(folder / "stats/ps/leases.csv").read_text() for folder in (one, many)]
    assert lines[0] == lines[1]


def fails(rank: int, round: int) -> tuple[str, ...]:
    target = "topology.worker._target_=tests.broken.FailsAtRound"
    return target, f"+topology.worker.fails={{{rank}:{round}}}"


def test_the_shards_of_a_failed_worker_go_to_the_others(tmp_path, problem, done):
    source = run(tmp_path / "run", "engine=threads", *fails(2, 5), "budget.updates=150", problem=problem)
    assert results.summary(source)["failed_workers"] == 1
    assert_whole(done, source)
    leases = pd.read_csv(source / "stats/ps/leases.csv")
    given, again = leases.query("event == 'back' and worker == 2"), leases.query("event == 'lease' and worker != 2")
    assert len(given) >= 1
    place = ["epoch", "first", "stop"]
    assert len(given.merge(again, on=place)) == len(given)
    assert replayed(source, tmp_path / "replay")["equal"]


def test_a_run_that_is_continued_goes_on_inside_the_epoch(tmp_path, problem, done):
    source = run(tmp_path / "run", "engine=threads", "budget.updates=40", problem=problem)
    before = sum(done.values())
    run(source, "engine=threads", "budget.updates=160", f"resume={source}", problem=problem)
    assert before == 40 and sum(done.values()) == 160
    assert_whole(done, source)
    assert_accounted(source)
    assert replayed(source, tmp_path / "replay")["equal"]


@pytest.mark.slow
def test_the_shards_of_a_killed_process_go_to_the_others(start, problem, tmp_path):
    """As processes; a killed one may have had one batch that the server got and that is in no table."""
    slowly = ("timing=none", "timing.compute=0.01")
    run = start(
        *problem, *slowly, "budget.epochs=null", "budget.updates=400", "evaluate.every=0", "checkpoint.every=50"
    )
    run.until(lambda: len(run.rows("ps/updates.csv")) > 30)
    run.node("worker2").kill()
    output = run.wait()
    assert run.code == 0, output
    rows = results.metrics(run.folder)
    counts = Counter(zip(rows.epoch, rows.batch, strict=True))
    epochs = len(counts) // BATCHES - 2
    missing = [(e, n) for e in range(epochs) for n in range(BATCHES) if not counts[e, n]]
    assert epochs > 10 and set(counts.values()) == {1} and len(missing) <= 1
    assert replayed(run.folder, tmp_path / "replay")["equal"]
    assert parameters(run.folder).isfinite().all()
