"""``engine=threads``: server and workers as threads of one process, the smallest real engine."""

import logging
import threading
import traceback
from pathlib import Path

import torch

from asgd.engines import processes
from asgd.engines.base import WorkerNode, check_timing, run_worker, speaker
from asgd.engines.evaluators import Evaluator
from asgd.engines.host import Host
from asgd.engines.hub import Hub
from asgd.engines.rpc import result
from asgd.job import Job, choose
from asgd.messages import Reply, Update
from asgd.task import Task

log = logging.getLogger(__name__)

JOIN_SECONDS = 300.0
HURRY_SECONDS = 1.5  # for a worker's batch after Ctrl-C


class HubExchange:
    """A worker's way to a server in the same process."""

    def __init__(self, hub: Hub):
        self.hub = hub

    def attach(self, task: Task) -> None:
        """Messages are handed over as they are."""

    def join(self, worker: int, session: int) -> Reply:
        return result(self.hub.join(worker, session))

    def push(self, update: Update) -> Reply:
        return result(self.hub.push(update))


class ThreadsEngine:
    """Random layers such as dropout share torch's one generator here, so they differ from run to run."""

    def __init__(self, on_worker_failure: str = "continue"):
        choose("engine.on_worker_failure", on_worker_failure, ("continue", "stop"))
        self.on_worker_failure = on_worker_failure

    def reserve(self, job: Job) -> None:
        check_timing(job)
        role = job.config["role"]
        if role != "all":
            raise ValueError(f"role={role}: engine=threads runs every role in one process; use engine=rpc")

    def run(self, job: Job, folder: Path) -> None:
        """The whole run. The folder then holds ``summary.json``."""
        torch.set_num_threads(job.threads)
        speaker.set("ps")
        evaluator = Evaluator(job)
        evaluator.came.set()  # no node will come; a process of its own judges
        host, stopped = Host(job, folder, evaluator, self.on_worker_failure), threading.Event()
        ranks = range(1, job.workers + 1)
        threads = [threading.Thread(target=work, args=(host, rank, stopped), daemon=True) for rank in ranks]
        for thread in threads:
            thread.start()
        with processes.catching(host.interrupted.set):
            host.wait(JOIN_SECONDS)
            seconds = host.server.training_seconds(host.clock())
            stopped.set()
            for thread in threads:
                thread.join(HURRY_SECONDS if host.server.ended == "interrupted" else None)
            host.finish(seconds)
            evaluator.close()
        if host.hub.error:
            raise host.hub.error


def work(host: Host, rank: int, stopped: threading.Event) -> None:
    """A worker's thread."""
    node, entry = None, host.server.ledger.get(rank)
    try:
        node = WorkerNode(host.job, host.folder, rank, host.clock)
        exchange = HubExchange(host.hub)
        run_worker(host.job, node, rank, entry.round if entry else 0, exchange, host.clock, stopped)
        host.goodbye(rank, node.skipped)
    except Exception:
        log.exception("worker %d failed", rank)
        host.lost(rank, f"see {host.folder / 'stats' / f'worker{rank}' / 'worker.log'}\n{traceback.format_exc()}")
    finally:
        if node:
            node.close()
