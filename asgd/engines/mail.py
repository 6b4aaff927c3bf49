"""The hub as workers of other processes reach it; vectors travel beside the calls.

Workers on this host leave and find them in shared memory, those of others have a connection of their own for them.
"""

import logging
from collections import deque
from functools import partial

from torch import Tensor
from torch.futures import Future

from asgd.codecs.base import Encoded
from asgd.engines import lanes, rpc
from asgd.engines.hub import Hub
from asgd.engines.shared import Place, Shelf, find
from asgd.ledger import ProtocolError
from asgd.messages import Reply, Update

log = logging.getLogger(__name__)

WHOLE = slice(0, None)
MOST = 4  # times the parameters' bytes: more than any codec makes of them


class Mail:
    """``share`` tells of a worker's outbox; from then on its updates come, and replies go, without the vectors.

    ``part``: of the outbox, where the server has only that of the parameters.
    """

    def __init__(self, hub: Hub, part: slice = WHOLE):
        self.hub, self.part, self.shelf = hub, part, None
        self.outboxes: dict[int, Tensor] = {}
        self.lent: dict[int, deque[Tensor]] = {}  # what workers read; not written again while it is in here
        self.doors: dict[int, lanes.Door] = {}  # for workers that are to come
        self.lanes: dict[int, lanes.Lane] = {}

    def share(self, rank: int, place: Place, held: int = 1) -> Place | None:
        """Where the server's parameters are, if the memory that a worker offers can be seen from here.

        ``held``: how many of the models it was last given a worker may still read.
        """
        outbox = find(place, writable=True)
        if outbox is None:
            return None
        with self.hub.lock:
            if self.shelf is None:
                self._open_shelf(place, held)
            self.outboxes[rank] = self.hub.server.parameters.pin(outbox[self.part])
            self.lent[rank] = deque(maxlen=held)
            return self.shelf.place(self.hub.server.parameters.vector)

    def _open_shelf(self, place: Place, held: int) -> None:
        self.shelf = Shelf()
        self.hub.server.parameters.live_in(self.shelf.allocate)
        self.hub.server.weights.live_in(self.shelf.allocate)
        workers, each = self.hub.server.workers, place.nbytes
        versions = held * workers + 2
        log.info(
            "shared memory: %s bytes for a worker's updates, and as many for each version in use, at most %d and those "
            "that wait for an evaluation; %s bytes in all", f"{each:,}", versions, f"{(versions + workers) * each:,}"
        )  # fmt: skip

    def open_door(self, rank: int) -> lanes.Way:
        """Where a worker is to connect for its vectors; then it asks to be ``let_in``."""
        self.doors[rank] = door = lanes.Door(rpc.address())
        return door.way

    def let_in(self, rank: int) -> None:
        connection = self.doors.pop(rank).let_in()
        self._close(rank)
        self.lanes[rank] = lanes.Lane(connection, MOST * self.hub.server.parameters.vector.nbytes)

    def join(self, rank: int, session: int) -> Future:
        return self._answered(rank, self.hub.join(rank, session))

    def push(self, update: Update) -> Future:
        """A payload that does not come along is in the worker's outbox, which stays as it is until the reply."""
        if lane := self.lanes.get(update.worker):
            update = update._replace(payload=received(update, lane))
        if update.payload is None:
            payload = self.outboxes[update.worker]
            update = update._replace(payload=payload.clone() if self.hub.server.rule.holds else payload)
        return self._answered(update.worker, self.hub.push(update))

    def forget(self, rank: int) -> None:
        """The worker is gone, or does not see this memory."""
        if (outbox := self.outboxes.pop(rank, None)) is not None:
            with self.hub.lock:
                self.hub.server.parameters.unpin(outbox)
        self.lent.pop(rank, None)
        self._close(rank)

    def close(self) -> None:
        """Nobody comes any more."""
        for rank in [*self.doors, *self.lanes]:
            self._close(rank)

    def _close(self, rank: int) -> None:
        for end in (self.doors.pop(rank, None), self.lanes.pop(rank, None)):
            if end:
                end.close()

    def _answered(self, rank: int, coming: Future) -> Future:
        if lane := self.lanes.get(rank):
            return coming.then(partial(send, lane))
        return coming.then(partial(self._lend, rank)) if rank in self.outboxes else coming

    def _lend(self, rank: int, coming: Future) -> Reply:
        """The reply with the place of its parameters, which nobody will write while the worker may read them."""
        reply = coming.value()
        if reply.model and (lent := self.lent.get(rank)) is not None:
            params = self._on_shelf(reply.model.params)
            lent.append(params)
            reply = reply._replace(model=reply.model._replace(params=self.shelf.place(params)))
        return reply

    def _on_shelf(self, params: Tensor) -> Tensor:
        """The vector, or where it was made elsewhere a copy."""
        if self.shelf.place(params):
            return params
        with self.hub.lock:
            return self.hub.server.parameters.blocks.take(params).copy_(params)


def received(update: Update, lane: lanes.Lane) -> Tensor | Encoded:
    """The update's payload as it comes. ProtocolError if it does not."""
    try:
        return lanes.whole(update.payload, lane)
    except (ValueError, OSError) as error:
        raise ProtocolError(f"worker {update.worker}: its payload did not come: {error}") from error


def send(lane: lanes.Lane, coming: Future) -> Reply:
    """The reply, whose parameters are on their way."""
    reply = coming.value()
    if reply.model:
        params, vectors = lanes.apart(reply.model.params)
        lane.send_later(vectors)
        reply = reply._replace(model=reply.model._replace(params=params))
    return reply
