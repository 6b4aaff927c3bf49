"""Vectors in memory that a worker and the server share where both are on one host, so that RPC carries only the call.

A worker writes its payload into memory of its own, which the server reads until it has answered. The server's versions
lie in memory that workers read where it is: a reply says which block, and the block is not written again before the
worker has asked for the next. Each vector is an anonymous file in memory; it has no name anywhere, so it is gone with
the last process that has it, however that ends.
"""

import logging
import mmap
import os
import secrets
import warnings
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

TOKEN = 16  # bytes by which both ends know that they look at the same memory


class Place(NamedTuple):
    """Where another process of this host finds a vector: whose it is, as which of its files, and what proves it."""

    process: int
    descriptor: int
    token: bytes
    numbers: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of the file: a page for the token, and whole pages for the vector."""
        return mmap.PAGESIZE * (1 - -self.numbers * self.dtype.itemsize // mmap.PAGESIZE)


def make(numbers: int, dtype: torch.dtype) -> tuple[Tensor, Place]:
    """A new vector [numbers] and its place, which is good as long as the vector is.

    OSError or AttributeError where this system has no such memory.
    """
    descriptor = os.memfd_create("asgd", os.MFD_CLOEXEC)
    place = Place(os.getpid(), descriptor, secrets.token_bytes(TOKEN), numbers, dtype)
    try:
        os.ftruncate(descriptor, place.nbytes)
        memory = mapped(descriptor, place, writable=True)
    except OSError:
        os.close(descriptor)
        raise
    weakref.finalize(memory, os.close, descriptor)
    memory[:TOKEN] = place.token
    return vector_in(memory, place), place


def find(place: Place, writable: bool = False) -> Tensor | None:
    """Another process's vector, if ``place`` is on this host and in reach. The token proves it.

    Writing to it without ``writable`` ends the process: it would change what others compute on.
    """
    try:
        opened = os.open(f"/proc/{place.process}/fd/{place.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        memory = mapped(opened, place, writable) if os.fstat(opened).st_size == place.nbytes else None
        return vector_in(memory, place) if memory and memory[:TOKEN] == place.token else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(opened)


def mapped(descriptor: int, place: Place, writable: bool) -> mmap.mmap:
    allowed = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, place.nbytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, allowed)


def vector_in(memory: mmap.mmap, place: Place) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(memory, dtype=place.dtype, count=place.numbers, offset=mmap.PAGESIZE)


class Shelf:
    """The memory of a server's versions, which workers here can see."""

    def __init__(self):
        self.places: dict[int, Place] = {}  # by the address of the vector

    def allocate(self, like: Tensor) -> Tensor:
        """As ``torch.empty_like`` of a vector."""
        vector, place = make(like.numel(), like.dtype)
        self.places[vector.data_ptr()] = place
        return vector

    def place(self, vector: Tensor) -> Place | None:
        """Where others find ``vector``; None if it was not allocated here."""
        return self.places.get(vector.data_ptr())


class Views:
    """A worker's sight of the server's versions; each block is looked for once, and then made ``ready`` to be read."""

    def __init__(self, ready: Callable[[Tensor], Tensor] = lambda vector: vector):
        self.found: dict[Place, Tensor] = {}
        self.ready = ready

    def of(self, place: Place) -> Tensor | None:
        if place not in self.found and (vector := find(place)) is not None:
            self.found[place] = self.ready(vector)
        return self.found.get(place)


def connect(payload: str, like: Tensor, offer: Callable[[Place], bool]) -> Tensor | None:
    """A worker's outbox, memory as for ``like`` [P] that the server has seen; None where vectors go by wire.

    ``payload`` is auto, shared (ValueError if that is not possible) or wire.
    """
    if payload == "wire" or not like.numel():
        return None
    try:
        outbox, place = make(like.numel(), like.dtype)
        seen = offer(place)
    except (AttributeError, OSError) as error:
        seen = False
        log.info("no shared memory here: %s", error)
    if not seen and payload == "shared":
        raise ValueError("engine.payload=shared: server and worker do not see each other's memory; use auto or wire")
    log.info("parameters travel through %s", f"shared memory, {place.nbytes:,} bytes each" if seen else "the network")
    return outbox if seen else None


def carry(vector: Tensor, outbox: Tensor) -> None:
    """Put a vector there, unless it has been made there."""
    if vector.data_ptr() != outbox.data_ptr():
        outbox.copy_(vector)
