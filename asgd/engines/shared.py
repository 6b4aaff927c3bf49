"""Vectors in memory that a worker and the server share where both are on one host, so that RPC carries only the call.

Each worker has one anonymous file in memory with two slots: its payload, which it writes before a push, and the reply,
which the server writes in answer to that push and never else. The file has no name anywhere, so it is gone with the
last process that has it, however that ends.
"""

import logging
import mmap
import os
import secrets
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

TOKEN = 16  # bytes by which both ends know that they look at the same memory
Place = tuple[int, int, bytes, int]  # process, its file descriptor, the token, parameters in a slot


class Slots:
    """Two vectors [P] of ``dtype``, ``payload`` and ``reply``, in the memory of an open file."""

    def __init__(self, descriptor: int, parameters: int, dtype: torch.dtype):
        self.parameters, size = parameters, slot_size(parameters, dtype)
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self.memory = mmap.mmap(descriptor, mmap.PAGESIZE + 2 * size, flags)
        offsets = mmap.PAGESIZE, mmap.PAGESIZE + size
        self.payload, self.reply = (
            torch.frombuffer(self.memory, dtype=dtype, count=parameters, offset=offset) for offset in offsets
        )

    @property
    def token(self) -> bytes:
        return self.memory[:TOKEN]

    @property
    def nbytes(self) -> int:
        return len(self.memory)


def slot_size(parameters: int, dtype: torch.dtype) -> int:
    """Bytes of a slot, whole pages."""
    return -(-parameters * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE


def make(parameters: int, dtype: torch.dtype) -> tuple[Slots, Place]:
    """A worker's new slots, and where the server finds them while the descriptor is open.

    OSError or AttributeError where this system has no such memory.
    """
    descriptor = os.memfd_create("asgd", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, mmap.PAGESIZE + 2 * slot_size(parameters, dtype))
    slots = Slots(descriptor, parameters, dtype)
    slots.memory[:TOKEN] = token = secrets.token_bytes(TOKEN)
    return slots, (os.getpid(), descriptor, token, parameters)


def find(place: Place, dtype: torch.dtype) -> Slots | None:
    """The worker's slots, if ``place`` is on this host and in reach. The token proves it."""
    process, descriptor, token, parameters = place
    try:
        opened = os.open(f"/proc/{int(process)}/fd/{int(descriptor)}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = mmap.PAGESIZE + 2 * slot_size(parameters, dtype)
        slots = Slots(opened, parameters, dtype) if os.fstat(opened).st_size == size else None
        return slots if slots and slots.token == token else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(opened)


def connect(payload: str, parameters: int, dtype: torch.dtype, offer: Callable[[Place], bool]) -> Slots | None:
    """A worker's slots if the server can see them; ``payload`` is auto, shared (an error if it cannot) or wire."""
    if payload == "wire" or not parameters:
        return None
    try:
        slots, place = make(parameters, dtype)
    except (AttributeError, OSError) as error:
        slots, seen = None, False
        log.info("no shared memory here: %s", error)
    else:
        try:
            seen = offer(place)
        finally:
            os.close(place[1])  # the mapping stays
    if not seen and payload == "shared":
        raise ValueError("engine.payload=shared: the server does not see this worker's memory; use auto or wire")
    log.info("parameters travel through %s", f"shared memory, {slots.nbytes:,} bytes" if seen else "the network")
    return slots if seen else None


def carry(vector: Tensor, slot: Tensor) -> None:
    """Put a vector into its slot, unless it has been made there."""
    if vector.data_ptr() != slot.data_ptr():
        slot.copy_(vector)
