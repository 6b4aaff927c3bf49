"""In the nodes of a trial: updates that can be counted, and points at which a fault may strike.

The environment names the trial's folder (``TRIAL``), which holds its plan; without it nothing strikes. A fault that has
struck leaves a file there, ``struck-<number>``, so that it does so once, whoever lives.
"""

import errno
import os
import signal
import time
from contextlib import suppress
from functools import wraps
from pathlib import Path

import psutil
import torch

from asgd import checkpoints
from asgd.engines.star.exchange import StarExchange
from asgd.rules import MeanOfWorkers
from asgd.server import Server
from asgd.workers import Worker
from tests.chaos import naive
from tests.chaos.faults import SERVER, WORKERS, Fault, Plan

TRIAL = "ASGD_TRIAL"
place = Path(os.environ[TRIAL]) if TRIAL in os.environ else None
plan = Plan.read(place / "plan.json") if place else None


class OneHot(Worker):
    """Its update adds one to the number that counts its round, whatever it is sent; see ``Plan.slots``."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        if self.session:  # else it is one that nobody lets work
            present(self.rank)

    def compute(self, model, batches):
        samples = len(self.next(batches).targets)
        note_computed(self.rank, self.round)
        at(self.rank, self.round, "computing")
        payload = torch.zeros_like(model.params)
        slots = len(payload) // WORKERS
        payload[(self.rank - 1) * slots + self.round % slots] = -1
        return self.update(model, payload, model.buffers, 0.0, None, samples)


class Watched(Server):
    """With points before and after an update is taken in."""

    def join(self, worker, session, now):
        present(SERVER)
        return super().join(worker, session, now)

    def push(self, update, now):
        at(update.worker, update.round, "received")
        replies = super().push(update, now)
        at(update.worker, update.round, "applied")
        return replies


class SumOfWorkers(MeanOfWorkers):
    """So that an update counts the same however many come together."""

    elementwise = True

    def direction(self):
        count = len(self.received)
        return super().direction() * count


# Who is there


def present(who: int) -> None:
    if place:
        (place / f"pid-{who}").write_text(str(os.getpid()))


def process(who: int) -> psutil.Process | None:
    """The last process of a node, if that lives. A number that another process has by now is not taken for it."""
    with suppress(OSError, ValueError, psutil.Error):
        found = psutil.Process(int((place / f"pid-{who}").read_text()))
        return found if found.environ().get(TRIAL) == str(place) else None


def note_computed(rank: int, round: int) -> None:
    if place:
        with open(place / f"computed-{rank}", "a") as file:
            file.write(f"{round}\n")


# Where faults strike


def at(who: int, round: int, point: str) -> None:
    """``who`` has come to this point of its round."""
    for fault in plan.faults if plan else ():
        if (fault.who, fault.point) == (who, point) and round >= fault.round and first_to_strike(fault):
            ACTIONS.get(fault.action, outside)(fault)


def first_to_strike(fault: Fault) -> bool:
    with suppress(FileExistsError):
        os.close(os.open(place / f"struck-{fault.number}", os.O_CREAT | os.O_EXCL))
        return True
    return False


def kill(fault: Fault) -> None:
    if found := process(fault.target):
        found.kill()


def stop(fault: Fault) -> None:
    """Whoever watches the trial lets it go on."""
    if found := process(fault.target):
        (place / f"stopped-{fault.number}").write_text(str(found.pid))
        found.send_signal(signal.SIGSTOP)


def full(fault: Fault) -> None:
    raise OSError(errno.ENOSPC, "No space left on device (scripted)")


def jump(fault: Fault) -> None:
    """Of the wall clock, as this process sees it."""
    real = time.time
    time.time = lambda: real() + fault.seconds


def tear(fault: Fault) -> None:
    path = newest()
    os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def flip(fault: Fault) -> None:
    with open(newest(), "r+b") as file:
        file.seek(newest().stat().st_size // 2)
        bit = file.read(1)[0] ^ 1
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([bit]))
    os.kill(os.getpid(), signal.SIGKILL)


def newest() -> Path:
    return max((place / "run/checkpoints").glob("*.pt"))


def outside(fault: Fault) -> None:
    """Whoever watches the trial acts on it."""


ACTIONS = {each.__name__: each for each in (kill, stop, full, jump, tear, flip)}


# Points in what is not ours to write anew


def pushing(push):
    @wraps(push)
    def around(self, update):
        at(update.worker, update.round, "pushing")
        reply = push(self, update)
        at(update.worker, update.round, "replied")
        return reply

    return around


def saving(save):
    """Of a file: when it is empty, and when it is whole but not yet under its name."""

    @wraps(save)
    def around(state, file, *arguments, **keywords):
        version = state["server"]["parameters"]["version"]
        at(SERVER, version, "saving")
        save(state, file, *arguments, **keywords)
        at(SERVER, version, "written")

    return around


def saved(save):
    @wraps(save)
    def around(folder, state, keep):
        path = save(folder, state, keep)
        at(SERVER, state["server"]["parameters"]["version"], "saved")
        return path

    return around


if place:
    StarExchange.push = pushing(StarExchange.push)
    checkpoints.save, torch.save = saved(checkpoints.save), saving(torch.save)
    if plan.naive:
        naive.install()
