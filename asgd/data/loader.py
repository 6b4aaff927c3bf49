"""Loader processes: read and decode ahead for one worker, with a fixed order and a certain end.

torch's DataLoader is not used: closed in the middle of an epoch, its spawned processes sometimes abort while Python
shuts down, its SIGCHLD handler then raises in the middle of anything, and it idles at the end of each epoch. Here each
loader has one pipe and a few shared-memory slots, each for one batch, which go back and forth.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from multiprocessing import connection, resource_tracker

import torch

from asgd.data.batch import Batch
from asgd.data.tar import DataError

Item = tuple[Batch | None, list[str]]  # a batch, None if no sample was good, and what was wrong with the others
Read = Callable[[int, int, int], Iterator[Item]]  # (epoch, loader, batches to leave out) -> the items of an epoch
SLOTS = 2


def in_this_process(read: Read, epoch: int, skip: int) -> Iterator[Iterator[Item]]:
    """The items of each epoch from ``epoch`` on, of the first one without ``skip`` batches; the worker reads itself."""
    yield read(epoch, 0, skip)
    for later in count(epoch + 1):
        yield read(later, 0, 0)


def in_processes(
    read: Read, epoch: int, skips: list[int], turn: int, shape: tuple[int, ...]
) -> Iterator[Iterator[Item]]:
    """The items of each epoch from ``epoch`` on, read by ``len(skips)`` processes which take turns.

    In the first epoch process i leaves out ``skips[i]`` batches, and it is the turn of process ``turn``; ``shape`` is
    that of a full batch's inputs, uint8. The processes are spawned (``read`` is pickled) and end when this generator is
    closed, or when this process is gone. Each epoch's iterator must be exhausted before the next one is taken.
    """
    with ExitStack() as stack:
        with _interrupts_blocked():
            loaders = [stack.enter_context(closing(_Loader(read, epoch, *each, shape))) for each in enumerate(skips)]
        yield _in_turns(loaders[turn:] + loaders[:turn])
        while True:
            yield _in_turns(loaders)


def _in_turns(loaders: list["_Loader"]) -> Iterator[Item]:
    waiting = deque(loaders)
    while waiting:
        loader = waiting.popleft()
        if (item := loader.next()) is not None:
            waiting.append(loader)
            yield item


class _Loader:
    """One process, seen from its parent."""

    def __init__(self, read: Read, epoch: int, number: int, skip: int, shape: tuple[int, ...]):
        context = torch.multiprocessing.get_context("spawn")  # a forked copy would keep sockets open and locks held
        self.slots = torch.empty(SLOTS, *shape, dtype=torch.uint8).share_memory_()
        self.pipe, theirs = context.Pipe()
        arguments = (read, epoch, number, skip, self.slots, theirs)
        self.process = context.Process(target=_load, args=arguments, name=f"loader {number}", daemon=True)
        self.process.start()
        theirs.close()
        for slot in range(SLOTS):
            self.pipe.send(slot)

    def next(self) -> Item | None:
        """The next item, None at the end of an epoch; raises what was raised in the process."""
        try:
            message = self.pipe.recv()
            if message is None:
                return None
            if isinstance(message, Exception):
                raise message
            slot, labels, faults = message
            inputs = torch.from_numpy(self.slots[slot, : len(labels)].numpy().copy())  # single-threaded, as decoding is
            self.pipe.send(slot)
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise RuntimeError(
                f"{self.process.name} (process {self.process.pid}) ended with exit code {self.process.exitcode}: "
                "-9 often means out of memory; try fewer dataset.loaders, or 0"
            ) from error
        return (Batch(inputs, torch.tensor(labels)) if labels else None), faults

    def close(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _load(read: Read, epoch: int, number: int, skip: int, slots: torch.Tensor, pipe: connection.Connection) -> None:
    """The life of a loader process; Ctrl-C is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        for current in count(epoch):
            for batch, faults in read(current, number, skip if current == epoch else 0):
                _send(batch, faults, slots, pipe)
            pipe.send(None)
    except (EOFError, ConnectionError):
        pass  # the parent is gone
    except DataError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"in a loader process:\n{traceback.format_exc()}"))


def _send(batch: Batch | None, faults: list[str], slots: torch.Tensor, pipe: connection.Connection) -> None:
    slot = pipe.recv()  # waits until one is free
    labels = [] if batch is None else batch.targets.tolist()  # as a tensor they would need a file of their own
    if batch is not None:
        slots[slot, : len(labels)] = batch.inputs
    pipe.send((slot, labels, faults))


def _exit_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started inside inherit a blocked SIGINT, so Ctrl-C does not interrupt their imports."""
    resource_tracker.ensure_running()  # starting it inside would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
