"""Memory that two processes share: found by proof, never by name, and gone when nobody is left."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asgd import results
from asgd.engines import shared
from asgd.engines.hub import Hub
from asgd.engines.mail import Mail
from asgd.rules import MeanOfUpdates
from tests.conftest import Command
from tests.runs import parameters
from tests.scripted import a_server, an_update

ALIKE = ("k_batch_async", "async", "local_sgd")
SIZE = 1000

OTHER = """
import sys, torch
from asgd.engines import shared
place = eval(sys.argv[1], {"Place": shared.Place, "torch": torch})
vector = shared.find(place, writable=sys.argv[2] == "write")
if vector is not None:
    print(vector.sum().item(), flush=True)
    vector.mul_(2)
print(vector is not None)
"""


def in_another_process(place, way="write") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", OTHER, repr(place), way], capture_output=True, text=True, check=False)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_one_process_writes_the_other_reads():
    vector, place = shared.make(SIZE, torch.float32)
    vector.copy_(torch.arange(SIZE))
    assert in_another_process(place).stdout == f"{sum(range(SIZE)):.1f}\nTrue\n"
    assert torch.equal(vector, 2.0 * torch.arange(SIZE))


def test_whoever_may_only_read_cannot_change_what_others_compute_on():
    vector, place = shared.make(SIZE, torch.float32)
    vector.fill_(1.0)
    other = in_another_process(place, "read")
    assert other.stdout == "1000.0\n" and other.returncode == -signal.SIGSEGV
    assert torch.equal(vector, torch.ones(SIZE))


def test_only_the_very_same_memory_is_taken():
    _kept, place = shared.make(SIZE, torch.float32)
    _other, another = shared.make(SIZE, torch.float32)
    assert shared.find(place) is not None
    for wrong in (
        place._replace(token=another.token),
        place._replace(numbers=5000),
        place._replace(dtype=torch.float64, numbers=3 * SIZE),
        place._replace(descriptor=10_000),
        place._replace(process=2**22 + 1),
    ):
        assert shared.find(wrong) is None


def test_a_place_is_good_as_long_as_its_vector():
    vector, place = shared.make(SIZE, torch.float32)
    view, found = vector[3:], shared.find(place)
    del vector
    assert shared.find(place) is not None
    del view
    assert shared.find(place) is None and found.sum() == 0  # who has found it keeps it


def test_nothing_is_left_after_many_vectors():
    before, named = descriptors(), sorted(os.listdir("/dev/shm"))
    for _ in range(100):
        vector, place = shared.make(5000, torch.float32)
        assert shared.find(place).numel() == 5000
        assert shared.find(place._replace(token=b"x" * shared.TOKEN)) is None
        del vector
    assert descriptors() <= before and sorted(os.listdir("/dev/shm")) == named


@pytest.mark.parametrize("seen", [True, False])
def test_auto_takes_what_it_can_get(seen, caplog):
    before = descriptors()
    with caplog.at_level(logging.INFO):
        outbox = shared.connect("auto", torch.zeros(10), lambda place: seen)
    assert (outbox is not None) == seen
    assert descriptors() == before + 2 * seen  # the file's, and the mapping's own
    assert ("shared memory, " if seen else "the network") in caplog.text


def test_wire_offers_nothing_and_shared_insists():
    assert shared.connect("wire", torch.zeros(10), lambda place: pytest.fail("offered")) is None
    with pytest.raises(ValueError, match=r"engine\.payload=shared: .*use auto or wire"):
        shared.connect("shared", torch.zeros(10), lambda place: False)


# The mail: what is lent is not written


class Post:
    """The mail of a server that applies each update, and its workers' sight of it, in one process."""

    def __init__(self, workers: int, held: int = 1, **parts):
        self.server = a_server(workers, **parts)
        self.mail = Mail(Hub(self.server, lambda: 0.0))
        self.views, self.outboxes, self.rounds, self.versions = shared.Views(), {}, {}, {}
        for worker in range(1, workers + 1):
            self.outboxes[worker], place = shared.make(self.server.parameters.size, torch.float32)
            assert self.views.of(self.mail.share(worker, place, held)) is not None

    def join(self, *workers: int) -> dict:
        """What each of them is given."""
        coming = {worker: self.mail.join(worker, 10 * worker) for worker in workers}
        return {worker: self.seen(worker, future.value()) for worker, future in coming.items()}

    def push(self, worker: int, value: float = 1.0):
        self.outboxes[worker].fill_(value)
        round = self.rounds[worker] = self.rounds.get(worker, -1) + 1
        update = an_update(worker, round, self.versions[worker])._replace(payload=None)
        return self.seen(worker, self.mail.push(update).value())

    def seen(self, worker: int, reply):
        self.versions[worker] = reply.model.version
        return self.views.of(reply.model.params)


def test_what_a_worker_reads_stays_until_it_asks_again():
    post = Post(workers=3)
    reading = post.join(1, 2, 3)
    first = reading[3].clone()  # worker 3 never comes again
    for step in range(40):
        worker = 2 if step % 7 == 0 else 1
        other = reading[3 - worker].clone()
        reading[worker] = post.push(worker)
        assert torch.equal(reading[worker], post.server.parameters.vector)
        assert torch.equal(reading[3 - worker], other) and torch.equal(reading[3], first)
    assert post.server.version == 40


@pytest.mark.parametrize("held", [1, 2])
def test_as_many_models_stay_as_a_worker_holds(held):
    post = Post(workers=2, held=held)
    given = [post.join(1, 2)[1]]
    contents = [given[0].clone()]
    for _ in range(12):
        post.push(2), post.push(2)
        given.append(post.push(1))
        contents.append(given[-1].clone())
        assert all(map(torch.equal, given[-held:], contents[-held:]))
    kept = [torch.equal(vector, content) for vector, content in zip(given, contents, strict=True)]
    assert kept[-held:] == [True] * held and not all(kept)  # memory is used again


def test_memory_is_bounded():
    post = Post(workers=4)
    post.join(1, 2, 3, 4)
    for step in range(60):
        post.push(1 + step * step % 4)
    assert len(post.server.parameters.blocks.blocks) <= 4 + 2
    assert len(post.views.found) <= 4 + 2


def test_a_version_that_was_made_elsewhere_is_copied():
    post = Post(workers=1)
    vector = post.server.parameters.vector
    vector.data = torch.full_like(vector, 3.0)
    assert torch.equal(post.join(1)[1], vector)


def test_a_payload_that_the_rule_keeps_is_not_overwritten():
    post = Post(workers=2, rule=MeanOfUpdates(2))
    before = post.join(1, 2)[1].clone()
    post.push(1, 1.0), post.push(1, 5.0)
    after = post.server.parameters.vector
    torch.testing.assert_close(before - after, torch.full_like(before, 3.0 * post.server.parameters.rate))


def test_a_worker_that_does_not_see_the_server_gets_vectors_by_wire():
    post = Post(workers=1)
    post.mail.forget(1)
    model = post.mail.join(1, 10).value().model
    assert torch.equal(model.params, post.server.parameters.vector)


KILLED = """
import os, mmap, sys
descriptor = os.memfd_create("asgd")
os.ftruncate(descriptor, {nbytes})
memory = mmap.mmap(descriptor, {nbytes})
memory[:{token}] = bytes({token})
print(descriptor, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("lives", [20, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_nothing_is_left_of_workers_that_were_killed(lives):
    server = a_server(1)
    mail, size = Mail(Hub(server, lambda: 0.0)), server.parameters.size
    place = shared.Place(0, 0, bytes(shared.TOKEN), size, torch.float32)
    code, counts = KILLED.format(nbytes=place.nbytes, token=shared.TOKEN), []
    for life in range(lives):
        worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        offered = place._replace(process=worker.pid, descriptor=int(worker.stdout.readline()))
        assert mail.share(1, offered) is not None
        assert mail.join(1, life).value().model is not None
        worker.kill()
        worker.communicate()
        mail.forget(1)
        counts.append((descriptors(), len(server.parameters.blocks.blocks)))
    assert max(counts[2:]) <= counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("topology", ALIKE)
def test_shared_and_wire_end_at_the_same_parameters(tmp_path, topology):
    """One worker has one order of arrival; ``k_batch_async`` holds payloads longer than their pushes."""
    options = [f"topology={topology}", "workers=1", "budget.updates=12", "evaluate.every=0", "model=cnn"]
    options += ["topology.count=3", "budget.updates=6"] if topology == "k_batch_async" else []
    runs = [Command(tmp_path / payload, *options, f"engine.payload={payload}") for payload in ("shared", "wire")]
    outputs = [run.wait() for run in runs]
    assert [run.code for run in runs] == [0, 0], outputs
    assert torch.equal(*(parameters(run.folder) for run in runs))
    logs = [Path(run.folder, "stats/worker1/worker.log").read_text() for run in runs]
    assert "through shared memory" in logs[0] and "through the network" not in logs[0] + logs[1]
    assert results.summary(runs[0].folder)["updates"] == results.summary(runs[1].folder)["updates"]
    assert "at most 3 and those that wait for an evaluation" in Path(runs[0].folder, "run.log").read_text()
