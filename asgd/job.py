"""A job: the objects that a configuration names, and the checks that come before anything is started."""

import difflib
from collections.abc import Iterator

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asgd import buffers, objectives, overlap
from asgd.budget import Budget
from asgd.codecs import Codec, Identity
from asgd.compute import Compute
from asgd.data.batch import Batch, Dataset
from asgd.data.prefetch import prefetched
from asgd.gate import Guard
from asgd.machine import cores, find_device, find_server_device, find_threads
from asgd.parameters import Parameters
from asgd.precision import Precision
from asgd.records import SUMMARY, flatten
from asgd.server import Server
from asgd.task import Evaluation, Task, build_task, check_outputs, plain
from asgd.trackers import Nothing, TensorBoard, Tracker
from asgd.workers import GradientWorker

ROLES = ("all", "ps", "worker", "evaluator")
METHOD = ("model", "topology", "optimizer", "schedule", "codec", "wire", "worker", "compute", "buffers")
SHARED = (*METHOD, "dataset", "workers", "seed", "guard")
STORAGE = ("anonymous", "endpoint", "timeout", "retry_seconds", "cache_dir", "cache_gb")
ELASTIC = ("asgd.engines.star.", "asgd.engines.replay.")  # engines whose workers come and go
WHOLE = slice(0, None)  # of a vector
LOCAL = ("url", "val_url", "path", "val_path", "loaders", "ahead", "eval_batch_size", *STORAGE)  # may differ by host


class Job:
    """``config`` is the resolved configuration as plain dicts and lists; it travels to every process of the run."""

    def __init__(self, config: dict):
        self.config = config
        check_roles(config)
        self.auto, self.seed = config["workers"] == "auto", config["seed"]
        self.workers = 1 if self.auto else config["workers"]  # that have to be there before anything starts
        self.buffers = buffers.choose(config["buffers"])
        self.weights = Precision(config.get("wire", {}).get("weights", "fp32"))  # older runs have no such options
        self.guard = Guard(**config.get("guard", {}))
        self.overlap = config.get("worker", {}).get("overlap", False)
        self.compute = Compute(**config.get("compute", {}))
        self.device = find_device("device", config["device"])
        self.server_device = find_server_device(config)
        self.threads = find_threads(config["threads"], cores() if self.auto else self.workers)
        self.parts = instantiate(OmegaConf.create(config), _convert_="all")
        self.dataset: Dataset = self.parts["dataset"]
        self.engine = self.parts["engine"]
        self.timing = self.parts["timing"]
        self.parts["topology"]["worker"] = plain(self.parts["topology"]["worker"])  # thousands may be made

    @property
    def leads(self) -> bool:
        """Whether this command is the one that writes the run."""
        return leads(self.config)

    def check(self) -> None:
        """ValueError for everything that can be known to fail before a process is started."""
        if not isinstance(self.overlap, bool):
            raise ValueError(f"worker.overlap={self.overlap}: true or false")
        for name in objectives.names(self.config["objective"]):
            choose("objective", name, SUMMARY)
            if name == "target_seconds" and not any(self.config["target"].values()):
                raise ValueError("objective=target_seconds: to what? give target.loss or target.accuracy")
        for part in ("evaluate", "checkpoint"):
            if self.config[part]["every"] < 0:
                raise ValueError(f"{part}.every={self.config[part]['every']}: updates between two, 0 for none")
        at_least_one("checkpoint.keep", self.config["checkpoint"]["keep"])
        self.check_trackers()
        self.timing.check(self.workers)
        if self.config["role"] != "ps":
            self.dataset.check()
            if self.auto and self.dataset.assignment == "static":
                next(self.dataset.batches(1, self.dealt))  # tells whether samples can be dealt so
        task = self.task("cpu")
        self.compute.check(task.params.dtype, self.dataset.shape)
        check_outputs(task, self.dataset.shape, self.dataset.classes)
        worker = self.worker(task, rank=1, session=0)
        if self.leads:  # it may have to count all samples
            self.check_method(self.server(task), worker)

    def check_method(self, server: Server, worker: GradientWorker) -> None:
        """ValueError for a method that does not go together with what is asked of its messages."""
        if worker.weights.dtype and not worker.lossy:
            raise ValueError(
                f"wire.weights={self.weights.name} does not fit {type(worker).__name__}: its workers have to be given "
                "the server's very numbers; use wire.weights=fp32"
            )
        if self.overlap:
            overlap.check(server, worker)

    def check_trackers(self) -> None:
        """ValueError for what the server's node cannot write to."""
        if self.config["role"] in ("all", "ps"):
            at_least_one("track.every", self.config["track"]["every"])
            for tracker in self.trackers():
                tracker.check()

    def trackers(self) -> list[Tracker]:
        """Where figures of the run go besides its folder."""
        chosen = [] if isinstance(self.parts["tracker"], Nothing) else [self.parts["tracker"]]
        return chosen + [TensorBoard()] * self.config["tensorboard"]

    def task(self, device: str | torch.device | None = None) -> Task:
        """The model at its initial parameters, the same in every process."""
        return build_task(self.parts["model"], self.dataset.loss, self.seed, device or self.device, self.compute)

    def server(self, task: Task, part: slice = WHOLE) -> Server:
        """The server; of several, the one with this ``part`` of the vector. The first also has what is in no part."""
        topology, first = self.parts["topology"], part.start == 0
        parameters = Parameters(task.params.cpu()[part], topology["optimizer"], self.parts["schedule"])
        rule, weight, policy = topology["rule"](), topology["weight"], topology["policy"]
        options = {"workers": self.workers, "nonfinite": self.config["nonfinite"]}
        options |= {part: topology[part]() for part in ("correction", "reads") if topology[part]}
        if first and self.dataset.assignment == "leased":
            longest = max(self.worker(task, rank, 0).steps(0) for rank in range(1, self.workers + 1))
            options["leases"] = self.dataset.leases(self.workers, longest)
        options |= {"codec": self.codec(task, rank=0), "weights": Precision(self.weights.name)}
        if self.overlap:
            options["ledger"] = overlap.OverlapLedger()
        if self.guard:
            options["guard"] = self.guard
        value = task.buffers if first else task.buffers.new_empty(0)
        merge = (self.buffers if value.numel() else buffers.Latest)(value)
        server = topology["server"](parameters, merge, rule, weight, policy, self.budget(), **options)
        of_all = task.buffers.nbytes  # of all parts, as the vectors are
        server.plain_bytes, server.model_bytes = task.params.nbytes + of_all, self.weights.nbytes(task.params) + of_all
        return server

    def worker(self, task: Task, rank: int, session: int, round: int = 0) -> GradientWorker:
        worker = self.parts["topology"]["worker"](task, rank, session, round=round, seed=self.seed)
        worker.weights = self.weights
        if codec := self.codec(task, rank):
            worker.compress(codec)
        return worker

    def codec(self, task: Task, rank: int) -> Codec | None:
        """That of a worker, or of the server (rank 0); None where payloads travel as they are."""
        if self.parts["codec"].func is Identity or not task.params.numel():
            return None
        return self.parts["codec"](task.shapes, self.seed, rank)

    def batches(self, worker: GradientWorker, ahead: int = 0) -> Iterator[Batch]:
        """The worker's endless batches, from the one its next round needs; so many are read ``ahead``."""
        if self.dataset.assignment == "leased":
            return self.dataset.leased(ahead)
        start = worker.batches_before(worker.round)
        return prefetched(self.dataset.batches(worker.rank, self.dealt, start), ahead)

    @property
    def dealt(self) -> int | None:
        """The workers to which samples are dealt, where their number is known."""
        return None if self.auto else self.workers

    def budget(self) -> Budget:
        limits = dict(self.config["budget"])
        if (epochs := limits.pop("epochs")) is not None:
            samples = [epochs * self.dataset.samples(), limits["samples"]]
            limits["samples"] = min(limit for limit in samples if limit is not None)
        return Budget(**limits)

    def evaluate(self, task: Task, model) -> Evaluation:
        """Loss, accuracy and, where the data set asks for it, top-k accuracy of a ``Model`` on the validation set."""
        task.load(model.params, model.buffers)
        self.buffers.prepare(task, lambda: self.dataset.batches(1, 1))
        return task.evaluate(self.dataset.evaluation(), self.dataset.top_k)

    def shared(self) -> dict:
        """What every node of a run has to agree on, as flat names and values."""
        options = {key: self.config[key] for key in SHARED} | {"engine": {"servers": servers(self.config)}}
        return {name: value for name, value in flatten(options).items() if name.rpartition(".")[2] not in LOCAL}


def check_roles(config: dict) -> None:
    """ValueError unless role, rank and the numbers that all nodes share fit together."""
    choose("role", config["role"], ROLES)
    workers, rank = config["workers"], config["rank"]
    if workers == "auto":
        check_auto(config)
    elif not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers}: a whole number from 1 on, or auto with engine=zmq or ray")
    if not isinstance(config["seed"], int) or config["seed"] < 0:
        raise ValueError(f"seed={config['seed']}: a whole number from 0 on")
    if isinstance(rate := config["optimizer"].get("lr"), str):
        raise ValueError(f"optimizer.lr={rate}: a number")
    if config["role"] == "worker" and workers != "auto" and (not isinstance(rank, int) or not 1 <= rank <= workers):
        raise ValueError(f"rank={rank}: a worker of workers={workers} has a rank from 1 to {workers}")
    if config["role"] == "ps" and rank not in (None, *range(1, servers(config) + 1)):
        raise ValueError(f"rank={rank}: a server of engine.servers={servers(config)} has a rank from 1 to that")


def check_auto(config: dict) -> None:
    """ValueError where a number of workers is needed: by the engine, or as a number of the method."""
    target = config["engine"]["_target_"]
    if not target.startswith(ELASTIC):
        raise ValueError("workers=auto: any number, that may change, is what engine=zmq (or ray) can do; give a number")
    method = {part: config[part] for part in METHOD if isinstance(config.get(part), dict)}
    if needed := [name for name, value in flatten(method).items() if value == "auto"]:
        raise ValueError(f"workers=auto: {needed[0]} is their number here; give it a number of its own")
    rank = config["rank"]
    if config["role"] == "worker" and rank is not None and not (isinstance(rank, int) and rank >= 1):
        raise ValueError(f"rank={rank}: a whole number from 1 on, or null for one that is free")


def servers(config: dict) -> int:
    """How many processes have the parameters."""
    return config["engine"].get("servers", 1)


def leads(config: dict) -> bool:
    """Whether the configuration is of a whole run, or of its first or only server."""
    return config["role"] == "all" or (config["role"] == "ps" and config["rank"] in (None, 1))


def at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value}: 1 or more")


def choose(name: str, value: str, allowed) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), list(allowed), 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{name}={value}: one of {', '.join(allowed)}{hint}")
