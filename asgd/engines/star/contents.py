"""What is called: typed bodies, and messages of the core as bodies with vectors. Nothing is unpickled."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from asgd.codecs.base import Encoded
from asgd.data.leases import Lease
from asgd.engines.shared import Place
from asgd.engines.star.session import VECTORS
from asgd.messages import Model, Reply, Update

TYPES = {str(dtype): dtype for dtype in (
    torch.float32, torch.float64, torch.bfloat16, torch.float16,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
)}  # fmt: skip
FILE_BYTES = 1 << 24  # of a file, at most, in a call
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Name = Annotated[str, msgspec.Meta(max_length=40)]
Kind = tuple[Name, Count]  # of a vector: its dtype, and how many numbers
Where = tuple[Count, Count, bytes, Count, Name]  # a ``Place``: process, descriptor, token, numbers, dtype


class Body(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=True):
    """Of a call or an answer."""


# What a worker calls, and its answer


class Hello(Body):
    """A worker has come, with a ``rank`` of its choice or for any that is free."""

    rank: int | None


class Welcome(Body):
    """``rank``; the ``round`` it goes on at; the server's ``epoch``, which counts its lives; the run's time and mark.

    ``options``: what all nodes have to agree on, as JSON.
    """

    rank: int
    round: int
    epoch: int
    clock: float
    run: str
    options: str


class Taken(Body):
    """Another worker of that rank is there."""


class Share(Body):
    """Memory that the worker offers, and how many models it may still read (``asgd.engines.shared.Place``)."""

    place: Where
    held: Annotated[int, msgspec.Meta(ge=1, le=2)]


class Shared(Body):
    """Whether the server sees that memory, and where its own is."""

    place: Where | None


class Unshare(Body):
    """The worker does not see the server's memory."""


class Join(Body):
    session: int


class Push(Body):
    """An update; ``payload``: the kinds of its vectors, None if it lies in the outbox, empty if a codec lost it."""

    session: int
    round: Count
    version: Count
    loss: float | None
    correct: Count | None
    samples: Count
    read: tuple[Count, Count] | None
    payload: Annotated[tuple[Kind, ...], msgspec.Meta(max_length=VECTORS)] | None
    encoded: bool
    buffers: Kind


class Given(Body):
    """A reply: the ``version`` of the model, None for stop. ``place`` of its parameters, if they lie in shared memory.

    ``kinds`` of the vectors that come: parameters, unless they have a place, and buffers. ``durable``: the rounds of
    this worker that no crash of the server can undo.
    """

    version: int | None
    place: Where | None
    kinds: tuple[Kind, ...]
    leases: tuple[tuple[int, int, int, int, int], ...]
    durable: int


class Ship(Body):
    """So many bytes (``size``) of the worker's file, from ``at`` on, as a vector.

    ``base``: where the file begins in the server's copy; None where the worker does not know.
    """

    name: Name
    size: Annotated[int, msgspec.Meta(ge=0, le=FILE_BYTES)]
    base: Count | None
    at: Count


class Shipped(Body):
    """Where the worker's file begins in the server's copy."""

    base: int


class Goodbye(Body):
    """The worker has ended: as it should, or for a ``reason``."""

    skipped: Count
    reason: str | None = None


class Done(Body):
    """The answer where there is nothing to say."""


class Failure(Body):
    """The answer of a call that was not granted."""

    reason: str


Calls = Hello | Share | Unshare | Join | Push | Ship | Goodbye
encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(Calls).decode
decode_answer = msgspec.msgpack.Decoder(Welcome | Taken | Shared | Given | Shipped | Done | Failure).decode


# Vectors


def kind(vector: Tensor) -> Kind:
    return str(vector.dtype), vector.numel()


def size(kind: Kind) -> int:
    """Bytes. ValueError for what is no kind of vector."""
    name, numbers = kind
    if name not in TYPES or numbers < 0:
        raise ValueError(f"{name} [{numbers}] is no vector")
    return TYPES[name].itemsize * numbers


def vectors(kinds: Sequence[Kind], memories: Sequence[memoryview]) -> list[Tensor]:
    """The vectors that lie in these memories."""
    return [vector(kind, memory) for kind, memory in zip(kinds, memories, strict=True)]


def vector(kind: Kind, memory: memoryview) -> Tensor:
    dtype = TYPES[kind[0]]
    return torch.frombuffer(memory, dtype=dtype) if kind[1] else torch.empty(0, dtype=dtype)


# The core's messages


def pushed(update: Update, in_outbox: bool) -> tuple[Push, list[Tensor]]:
    """An update as a call."""
    encoded = isinstance(update.payload, Encoded)
    payload = [] if in_outbox else list(update.payload.parts if encoded else [update.payload])
    fields = update.session, update.round, update.version, update.loss, update.correct, update.samples, update.read
    kinds = None if in_outbox else tuple(map(kind, payload))
    return Push(*fields, kinds, encoded, kind(update.buffers)), [*payload, update.buffers]


def update(rank: int, push: Push, memories: Sequence[memoryview]) -> Update:
    """The update that a call is, without a payload where that lies in the outbox."""
    *payload, buffers = vectors([*(push.payload or ()), push.buffers], memories)
    content = Encoded(tuple(payload)) if push.encoded else payload[0] if payload else None
    rest = content, buffers, push.loss, push.correct, push.samples, push.read
    return Update(rank, push.session, push.round, push.version, *rest)


def given(reply: Reply, durable: int) -> tuple[Given, list[Tensor]]:
    """A reply as an answer; the parameters may be the place where they lie."""
    if reply.model is None:
        return Given(None, None, (), (), durable), []
    version, params, buffers = reply.model
    lies = isinstance(params, Place)
    sent = [buffers] if lies else [params, buffers]
    where = described(params) if lies else None
    leases = tuple(tuple(lease) for lease in reply.leases)
    return Given(version, where, tuple(map(kind, sent)), leases, durable), sent


def reply(rank: int, given: Given, memories: Sequence[memoryview]) -> Reply:
    """The reply that an answer is; its parameters may be a place."""
    if given.version is None:
        return Reply(rank, None)
    *params, buffers = vectors(given.kinds, memories)
    where = params[0] if params else place(given.place)
    return Reply(rank, Model(given.version, where, buffers), tuple(Lease(*lease) for lease in given.leases))


def described(place: Place) -> Where:
    return (*place[:4], str(place.dtype))


def place(described: Where) -> Place:
    """ValueError for what is none."""
    *rest, dtype = described
    size((dtype, described[3]))
    return Place(*rest, TYPES[dtype])
