"""Chunks that arrive asynchronously, read as a file: a thread of its own fetches a bounded number of them ahead."""

import asyncio
import atexit
import io
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from queue import SimpleQueue
from weakref import WeakSet

AHEAD = 8  # chunks fetched and not yet read


class ReadAhead(io.BufferedIOBase):
    """A forward stream of the bytes of ``chunks``; what these raise is raised by ``read`` once it comes to it.

    Closing cancels the request in progress and ends the thread, also in the middle of a stall.
    """

    def __init__(self, chunks: AsyncIterator[bytes]):
        self._queue: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self._chunk, self._at, self._end = b"", 0, None
        self._room, self._loop = asyncio.Semaphore(AHEAD), asyncio.new_event_loop()
        self._task = self._loop.create_task(_fill(chunks, self._queue, self._room))
        self._thread = threading.Thread(target=_run, args=(self._loop, self._task), name="read ahead", daemon=True)
        self._thread.start()
        _open.add(self)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """``size`` bytes, fewer only at the end; all that are left without it."""
        if self.closed:
            raise ValueError("read of a closed stream")
        pieces, wanted = [], float("inf") if size is None or size < 0 else size
        while wanted > 0 and self._more():
            piece = self._chunk[self._at :] if wanted >= len(self._chunk) else self._chunk[self._at : self._at + wanted]
            self._at += len(piece)
            wanted -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _more(self) -> bool:
        """Whether there is at least one more byte in ``_chunk``; waits for the next chunk."""
        while self._at == len(self._chunk) and self._end is None:
            item = self._queue.get()
            if isinstance(item, BaseException):
                self._end = item
            else:
                self._chunk, self._at = bytes(item), 0
                self._in_loop(self._room.release)
        if self._at < len(self._chunk):
            return True
        if not isinstance(self._end, StopAsyncIteration):
            raise self._end
        return False

    def close(self) -> None:
        if not self.closed:
            self._in_loop(self._task.cancel)
            self._thread.join()
            self._end = None  # an error refers, by its traceback, to this stream
        super().close()

    def _in_loop(self, call) -> None:
        with suppress(RuntimeError):  # the loop is closed: the thread has come to its end
            self._loop.call_soon_threadsafe(call)


async def _fill(chunks: AsyncIterator[bytes], queue: SimpleQueue, room: asyncio.Semaphore) -> None:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                queue.put(chunk)
                await room.acquire()
        queue.put(StopAsyncIteration())
    except BaseException as error:
        queue.put(error)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task) -> None:
    try:
        loop.run_until_complete(task)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


_open: WeakSet[ReadAhead] = WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread in the middle of a request would disturb the end of the interpreter."""
    for stream in list(_open):
        stream.close()
