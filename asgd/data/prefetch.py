"""The next batches, read and decoded by a thread while the worker computes or waits for the server."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

from asgd.data.batch import Batch


def prefetched(source: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """``source`` itself, or its items ``depth`` ahead."""
    return Prefetched(source, depth) if depth else source


class Prefetched:
    """Passes on what ``source`` gives, ``depth`` items ahead. ``close`` waits for the item that is being made."""

    def __init__(self, source: Iterator[Batch], depth: int):
        self.source, self.depth = source, depth
        self.pool, self.context = ThreadPoolExecutor(1, "prefetch"), copy_context()  # what is logged is its maker's
        self.coming: deque[Future] = deque()

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        while len(self.coming) <= self.depth:
            self.coming.append(self.pool.submit(self.context.run, next, self.source))
        return self.coming.popleft().result()

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.source.close()
