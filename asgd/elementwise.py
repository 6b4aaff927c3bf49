"""Which methods treat every parameter by itself: their vector may be in parts, on several servers.

A rule, correction, reads, codec or server says so in its own class, ``elementwise = True``. What it inherits does not
count: a subclass may look at the whole. Weights and policies see no vector, and workers have all of it.
"""

from math import inf

import torch

from asgd.server import Server

OPTIMIZERS = {
    getattr(torch.optim, name)
    for name in "SGD Adam AdamW Adagrad Adadelta Adamax ASGD NAdam RAdam RMSprop Rprop".split()
}


def check(server: Server, option: str) -> None:
    """ValueError, which names the ``option``, where a part of the server needs the whole vector."""
    if type(server.parameters.optimizer) not in OPTIMIZERS:
        known = ", ".join(sorted(each.__name__ for each in OPTIMIZERS))
        raise ValueError(f"{refusal(option, 'optimizer', server.parameters.optimizer)}; {known} do")
    if server.gate.max_norm < inf:
        raise ValueError(f"{option}: guard.max_norm={server.gate.max_norm:g} is for the whole vector; give null")
    parts = {name: getattr(server, name) for name in ("rule", "correction", "reads", "codec")} | {"server": server}
    for name, part in parts.items():
        if part is not None and not vars(type(part)).get("elementwise"):
            raise ValueError(refusal(option, name, part))


def refusal(option: str, name: str, part: object) -> str:
    kind = type(part).__name__
    return f"{option}: the {name} {kind} does not treat every parameter by itself, or does not say that it does"
