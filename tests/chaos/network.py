"""Networks between workers and the server, as proxies on loopback: one of streams, and one of ZeroMQ's messages."""

import asyncio
import heapq
import itertools
import threading
import time
from contextlib import suppress
from random import Random

import zmq


class Streams:
    """A proxy of TCP connections, which can be ``cut``, or held back: every piece by ``lag`` seconds, or for good."""

    def __init__(self, upstream: int):
        self.upstream, self.lag = upstream, 0.0
        self.writers: set[asyncio.StreamWriter] = set()
        self.loop, self.open = asyncio.new_event_loop(), asyncio.Event()
        self.open.set()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._come, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, name="streams")
        self.thread.start()

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.open.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            return writer.transport.abort()
        self.writers |= {writer, back}
        await asyncio.gather(self._relay(reader, back), self._relay(there, writer))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.open.wait()
                await asyncio.sleep(self.lag)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self.writers.discard(writer)

    # From other threads

    def cut(self) -> None:
        """All connections, with what is in them."""
        self.loop.call_soon_threadsafe(lambda: [each.transport.abort() for each in self.writers])

    def hold(self) -> None:
        """Nothing gets through, and no connection is closed."""
        self.loop.call_soon_threadsafe(self.open.clear)

    def let_go(self) -> None:
        self.lag = 0.0
        self.loop.call_soon_threadsafe(self.open.set)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


class Messages:
    """A proxy that loses, repeats and delays whole messages (without keys), a share of ``rate`` each."""

    LONGEST = 1.0  # seconds of delay

    def __init__(self, upstream: int, seed: int, rate: float = 0.01):
        self.random, self.rate = Random(seed), rate
        self.context = zmq.Context()
        self.front = self._unlimited(zmq.ROUTER)
        self.port = self.front.bind_to_random_port("tcp://127.0.0.1")
        self.upstream, self.backs = upstream, {}
        self.late, self.order = [], itertools.count()  # (when, number, through which socket, frames)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="messages")
        self.thread.start()

    def _unlimited(self, kind: int) -> zmq.Socket:
        made = self.context.socket(kind)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.RECONNECT_IVL_MAX, 200)):
            made.setsockopt(option, value)
        return made

    def _run(self) -> None:
        self.poller = zmq.Poller()
        self.poller.register(self.front, zmq.POLLIN)
        while not self.ended.is_set():
            for ready, _ in self.poller.poll(20):
                if ready is self.front:
                    who, *frames = self.front.recv_multipart()
                    self._pass(self._back(who), frames)
                else:
                    self._pass(self.front, [self.peers[ready], *ready.recv_multipart()])
            while self.late and self.late[0][0] <= time.monotonic():
                self._send(*heapq.heappop(self.late)[2:])

    def _back(self, who: bytes) -> zmq.Socket:
        """The way to the server of one worker's messages."""
        if who not in self.backs:
            made = self.backs[who] = self._unlimited(zmq.DEALER)
            made.connect(f"tcp://127.0.0.1:{self.upstream}")
            self.poller.register(made, zmq.POLLIN)
        return self.backs[who]

    @property
    def peers(self) -> dict[zmq.Socket, bytes]:
        return {back: who for who, back in self.backs.items()}

    def _pass(self, through: zmq.Socket, frames: list[bytes]) -> None:
        fate = self.random.random() / self.rate
        if fate < 1:
            return
        if fate < 2:
            self._send(through, frames)
        if fate < 3:
            when = time.monotonic() + self.random.uniform(0, self.LONGEST)
            return heapq.heappush(self.late, (when, next(self.order), through, frames))
        self._send(through, frames)

    def _send(self, through: zmq.Socket, frames: list[bytes]) -> None:
        with suppress(zmq.ZMQError):  # who it is for has gone
            through.send_multipart(frames)

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        self.context.destroy(0)
