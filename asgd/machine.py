"""What a node takes of the machine it is on: which device it computes on, and how many threads."""

import os

import torch

from asgd.parameters import CPU


def find_device(option: str, name: str) -> torch.device:
    """``auto`` takes the first CUDA device if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{option}={name}: cpu, cuda, cuda:<number> or auto") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"{option}={name}: this machine has {count} CUDA devices; try {option}=auto")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{option}={name}: cpu, cuda, cuda:<number> or auto")
    return device if device.type == "cuda" else CPU


def find_server_device(config: dict) -> torch.device:
    """Where the server steps, if this is a node that has one or starts one."""
    name = config.get("server", {}).get("device", "cpu")  # older runs have no such option
    return find_device("server.device", name) if config["role"] in ("all", "ps") else CPU


def cores() -> int:
    """Of this machine, that this process may use."""
    return len(os.sched_getaffinity(0))


def find_threads(threads: int | str, workers: int) -> int:
    """Threads of torch in each process: so many that the workers on this machine do not fight over its cores."""
    if threads == "auto":
        if "LOCAL_WORLD_SIZE" in os.environ:  # by torchrun
            return max(1, cores() // int(os.environ["LOCAL_WORLD_SIZE"]))
        share = os.environ.get("OMP_NUM_THREADS", "")  # where several jobs share this machine, their launcher sets it
        return max(1, min(cores(), int(share) if share.isdigit() else cores()) // workers)
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads={threads}: auto, or a whole number from 1 on")
    return threads
