"""Workers that come and are killed, and their server: nothing of them stays there."""

import os
import time

import psutil
import pytest
from zmq import DEALER, Context

from asgd.engines.star.contents import Hello, Join, encode
from asgd.engines.star.session import Call
from asgd.engines.star.session import encode as encoded
from tests.star import Star, a_star

MB = 1 << 20


def killed(star: Star, context: Context, number: int) -> None:
    """A worker joins and is gone without a word: its socket is closed, and its session's lease runs out."""
    with context.socket(DEALER) as socket:
        socket.linger = 0
        socket.connect(star.address)
        for serial, body in ((1, Hello(1)), (2, Join(number))):
            socket.send(encoded(Call(number, serial, encode(body))))
            assert socket.poll(60_000)
            socket.recv_multipart()
    star.post.do(lambda: expire(star, number))
    until(lambda: number not in star.service.ranks)


def expire(star: Star, session: int) -> None:
    desk = star.post.desk
    desk.seats[session].heard = float("-inf")
    desk.look(desk.looked)


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.005)


def segments() -> set[str]:
    """What is in /dev/shm, but for the semaphores of other tests' multiprocessing."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}


def check_leaks(folder, count: int) -> None:
    process, shared = psutil.Process(), segments()
    with a_star(folder / "run", "workers=1") as star, Context() as context:
        for number in range(1, 51):
            killed(star, context, number)
        files, memory = process.num_fds(), process.memory_info().rss
        for number in range(51, count + 51):
            killed(star, context, number)
        until(lambda: process.num_fds() <= files + 4)
        assert process.memory_info().rss - memory < 16 * MB
        desk, service = star.post.desk, star.service
        assert (desk.seats, service.ranks, service.sessions, service.mail.lent) == ({}, {}, {}, {})
        until(lambda: not star.post.known)
        node = star.worker()
        node.join()
        assert node.push().version == 1
        node.leave()
    assert segments() <= shared


def test_workers_that_are_killed_leave_nothing(tmp_path):
    check_leaks(tmp_path, 200)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_workers_that_are_killed_leave_nothing(tmp_path):
    check_leaks(tmp_path, 1000)
