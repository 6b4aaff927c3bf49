"""The hub as workers of other processes reach it; those on this host leave and find vectors in shared memory."""

import logging
from functools import partial

from torch.futures import Future

from asgd.engines.hub import Hub
from asgd.engines.shared import Place, Slots, carry, find
from asgd.messages import Reply, Update

log = logging.getLogger(__name__)


class Mail:
    """``share`` tells of a worker's slots; from then on its updates come, and replies go, without the vectors."""

    def __init__(self, hub: Hub):
        self.hub, self.slots = hub, {}

    def share(self, rank: int, place: Place) -> bool:
        """Whether the memory that a worker offers can be seen from here."""
        found = find(place, self.hub.server.parameters.vector.dtype)
        if found:
            self.slots[rank] = found
            log.info("worker %d shares %s bytes of memory with the server", rank, f"{found.nbytes:,}")
        return found is not None

    def join(self, rank: int, session: int) -> Future:
        return self._answered(rank, self.hub.join(rank, session))

    def push(self, update: Update) -> Future:
        """A payload that does not come along is in the worker's slot, which stays as it is until the reply."""
        if update.payload is None:
            payload = self.slots[update.worker].payload
            update = update._replace(payload=payload.clone() if self.hub.server.rule.holds else payload)
        return self._answered(update.worker, self.hub.push(update))

    def forget(self, rank: int) -> None:
        """The worker is gone."""
        self.slots.pop(rank, None)

    def _answered(self, rank: int, coming: Future) -> Future:
        return coming.then(partial(_leave, self.slots[rank])) if rank in self.slots else coming


def _leave(slots: Slots, coming: Future) -> Reply:
    """The reply without its parameters, which are in the slot then."""
    reply = coming.value()
    if reply.model:
        carry(reply.model.params, slots.reply)
        reply = reply._replace(model=reply.model._replace(params=None))
    return reply
