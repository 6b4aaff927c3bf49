"""What server and workers say to each other. Immutable; a tensor inside a message is never written again by anybody."""

from functools import partial
from typing import NamedTuple

import torch


class Model(NamedTuple):
    """One immutable snapshot of the server: ``params`` [P], ``buffers`` [B], after ``version`` updates."""

    version: int
    params: torch.Tensor
    buffers: torch.Tensor


class Update(NamedTuple):
    """A worker's answer to the model of ``version``.

    ``payload`` [P], or its ``asgd.codecs.Encoded`` form on the way, is what the method says: a gradient, or view minus
    result after local steps (in both cases the server steps against it), or a replica. ``round`` counts the worker's
    updates 0, 1, 2, ...; ``session`` is a fresh number for each life of a worker. ``loss`` is the mean over
    ``samples``, None where nothing was computed; ``correct`` counts right answers, None where targets are not labels;
    ``read`` is the last batch used, as (epoch, number). ``finite``: whether loss and payload are, and ``norm`` of the
    payload, where somebody has looked already.
    """

    worker: int
    session: int
    round: int
    version: int
    payload: torch.Tensor
    buffers: torch.Tensor
    loss: float | None
    correct: int | None
    samples: int
    read: tuple[int, int] | None = None
    finite: bool | None = None
    norm: float | None = None


class Reply(NamedTuple):
    """The next model for ``worker``; ``model=None`` means stop. ``leases``: what to read after what it has."""

    worker: int
    model: Model | None
    leases: tuple = ()


class Event(NamedTuple):
    """One row of ``updates.csv``: the order of arrival, which together with config and seed decides the parameters."""

    time_s: float
    event: str  # join | push | cancel | leave
    worker: int | None  # a cancel is of all the workers that drop their work at that moment
    round: int | None = None
    version: int = 0  # after the event
    staleness: int | None = None  # version before the event minus that of what was computed on; of a cancel: the sum
    applied: int | None = None  # 1: taken into the parameters or the rule's buffer; 0: discarded
    loss: float | None = None
    accuracy: float | None = None
    samples: int | None = None
    waiting: int = 0  # workers that wait for a reply after the event
    bytes: int | None = None  # of a push: payload and buffers as they travelled


# As Model(...), Reply(...) and so on of a whole tuple, at a third of the time: virtual time makes millions of them.
a_model, an_update, a_reply, an_event = (partial(tuple.__new__, kind) for kind in (Model, Update, Reply, Event))
