"""Real runs with faults drawn from a seed apply every update once (``python -m tests.chaos`` has more of them)."""

from pathlib import Path

import pytest

from tests.chaos import ledger
from tests.chaos.faults import SERVER, WORKERS, Fault, Plan, drawn
from tests.chaos.trial import Stuck, Trial
from tests.runs import replayed


def check(plan: Plan, folder: Path) -> None:
    """The ledger of the trial is right (or it raises what is wrong), and every worker went on after the last fault."""
    rounds = Trial(plan, folder).hold()
    assert sorted(rounds) == list(range(1, WORKERS + 1)) and min(rounds.values()) >= plan.beyond


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10))
def test_every_update_counts_once_whatever_goes_wrong(tmp_path, seed):
    check(drawn(seed, brief=True), tmp_path / "trial")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10, 210))
def test_every_update_counts_once_whatever_goes_wrong_for_longer(tmp_path, seed):
    check(drawn(seed, brief=seed % 4 > 0), tmp_path / "trial")


def lossy(naive: bool) -> Plan:
    """Three of a hundred messages are lost, as many come twice, and as many late."""
    return Plan(1, "messages", "async", "checkpoint", "wire", 1024, beyond=60, naive=naive)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_that_push_again_what_was_lost_are_found_out(tmp_path):
    Trial(lossy(naive=False), tmp_path / "ours").hold()
    with pytest.raises(Stuck, match="audit: this law is broken"):
        Trial(lossy(naive=True), tmp_path / "naive").hold()
    with pytest.raises(ledger.Wrong, match="applied as often as it says"):
        ledger.check(tmp_path / "naive", lossy(naive=True))


def test_a_run_with_a_killed_worker_and_a_killed_server_is_replayed(tmp_path):
    faults = Fault(0, 2, 15, "received", "kill", 2), Fault(1, 1, 40, "applied", "kill", SERVER)
    plan = Plan(3, "all", "async", "checkpoint", "shared", 1024, faults)
    rounds = Trial(plan, tmp_path / "trial").hold()
    found = replayed(tmp_path / "trial/run", tmp_path / "replay")
    assert found["equal"] and found["events"] >= sum(rounds.values())
