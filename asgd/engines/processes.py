"""Processes that never outlive the one that started them."""

import ctypes
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MOST = 1 << 30  # bytes


def keep_memory() -> None:
    """What is freed here is kept for what comes next, up to a GiB, where the C library is glibc.

    A step frees all that it has made, and the next one needs as much again. Given back, it comes as fresh pages, each
    of which the system has to clear first.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, MOST)
        mallopt(M_TRIM_THRESHOLD, MOST)


def context() -> multiprocessing.context.BaseContext:
    """New processes come from a server process that has imported all once, so that each starts in a moment."""
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)  # new processes do not know that of joblib's workers
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asgd.engines.preloaded"])
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is not for the server process
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def tie_to_parent() -> None:
    """In a child: leave Ctrl-C to the parent, and end with it, whatever kills it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextmanager
def catching(action: Callable[[], None]) -> Iterator[None]:
    """SIGTERM calls ``action``; so does Ctrl-C, except in a child, which leaves that to its parent.

    Signals come to the main thread only: elsewhere nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [signal.SIGTERM] + [signal.SIGINT] * (multiprocessing.parent_process() is None)
    before = {each: signal.signal(each, lambda *_: action()) for each in signals}
    try:
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def interrupt() -> None:
    """An action for ``catching`` that ends what this thread is doing."""
    raise KeyboardInterrupt


def allow_files() -> None:
    """As many descriptors as this process may ever have: each connection takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
