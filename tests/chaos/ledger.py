"""What must be true of a trial at its end, whatever went wrong: each update was applied as often as it should."""

from collections import Counter
from pathlib import Path

import torch

from asgd import checkpoints, results
from tests.chaos.faults import WORKERS, Plan


class Wrong(AssertionError):
    """The records of a trial and its parameters do not tell of updates that were applied once each."""


def check(folder: Path, plan: Plan) -> dict[int, int]:
    """The rounds of each worker. Wrong unless each of them was applied once, and none beyond."""
    state = checkpoints.load(folder / "run")
    rows = results.updates(folder / "run")[: state["events"]]
    pushes = rows[rows.event == "push"]
    rounds = {worker: entry["round"] for worker, entry in state["server"]["ledger"].items()}
    demand("updates were late only at the end", (pushes.applied.diff().dropna() <= 0).all())
    for worker in range(1, WORKERS + 1):
        own = pushes[pushes.worker == worker]
        demand(f"worker {worker}: each round once in updates.csv", list(own["round"]) == list(range(rounds[worker])))
        expected = Counter(int(round) % plan.slots for round in own["round"][own.applied == 1])
        demand(f"worker {worker}: applied as often as it says", counted(state, worker, plan.slots) == expected)
    if plan.durability == "update":
        check_kept(folder, plan, rounds)
    return rounds


def counted(state: dict, worker: int, slots: int) -> Counter:
    """How often each of a worker's rounds is in the parameters, and in what waits for the next step."""
    server = state["server"]
    waiting = [update["payload"] for update, _ in server["rule"]["received"]]
    total = server["parameters"]["params"].double() - sum(each.double() for each in waiting)
    own = total[(worker - 1) * slots : worker * slots]
    demand("whole numbers", torch.equal(own, own.round()))
    return Counter({int(slot): int(own[slot]) for slot in own.nonzero()})


def check_kept(folder: Path, plan: Plan, rounds: dict[int, int]) -> None:
    """Nothing is computed a second time, but by a worker whose process was killed."""
    killed = {fault.target for fault in plan.faults if fault.action == "kill"}
    for worker in {*rounds} - killed:
        computed = [int(line) for line in (folder / f"computed-{worker}").read_text().split()]
        demand(f"worker {worker}: each round computed once", computed == sorted(set(computed)))


def demand(law: str, holds: bool) -> None:
    if not holds:
        raise Wrong(law)
