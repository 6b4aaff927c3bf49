"""How much memory a run with all its workers in one process may need, known before it starts."""

import logging
import os

import psutil

from asgd.engines.gradients import Stacked
from asgd.job import Job

log = logging.getLogger(__name__)

SHARE = 0.8  # of this machine's memory, at most
WORKER = 20_000  # bytes of a worker without vectors: objects, random streams, its place on the heap
SERVER = 8  # vectors of the server: parameters, gradient, optimizer state, snapshots, one checkpoint


def vectors(job: Job, at_once: int) -> int:
    """How many vectors [P] may exist at once: what a worker was given, what it will send, and what it keeps."""
    task = job.task("cpu")
    server = job.server(task)
    worker = job.worker(task, 1, 0)
    kept = [worker, worker.codec, server.rule, server.correction, server.reads]
    each = 1 + server.ledger.jobs + sum(getattr(part, "vectors", 0) for part in kept)
    return job.workers * each + at_once * (1 + Stacked.peak_vectors) + SERVER


def check(job: Job, at_once: int) -> None:
    """Say how much memory the run may need. ValueError beyond 80 % of this machine's."""
    task, total = job.task("cpu"), psutil.virtual_memory().total
    count = vectors(job, at_once)
    size = count * task.params.nbytes + job.workers * (2 * task.buffers.nbytes + WORKER)
    bound = size + psutil.Process(os.getpid()).memory_info().rss
    log.info("memory: at most %.2f GB for %d workers, of %.1f GB here", bound / 1e9, job.workers, total / 1e9)
    if bound > SHARE * total:
        raise ValueError(
            f"workers={job.workers} may need {bound / 1e9:.1f} GB ({count:,} vectors of {task.params.nbytes:,} bytes), "
            f"more than {SHARE:.0%} of this machine's {total / 1e9:.1f} GB; take fewer workers or a smaller model"
        )
