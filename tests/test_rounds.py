"""Every round of every worker counts once: whatever is lost, doubled or cut, whoever dies, at whatever point.

``tests.rounds`` draws the faults from a seed. With ``durability=update`` nothing is computed twice either, unless the
worker itself has died.
"""

import pytest
import torch

from asgd.engines.star import exchange, session
from asgd.engines.star.desk import Desk
from asgd.ledger import Entry, Ledger
from asgd.messages import Update
from tests.rounds import Plan, Run
from tests.test_session import Hasty

SEEDS, MANY = range(80, 120), range(2000)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Vectors travel in several pieces, and nobody sleeps."""
    monkeypatch.setattr(session, "CHUNK", 24)
    monkeypatch.setattr(exchange.time, "sleep", lambda seconds: None)


def check_all_ones(plan: Plan, seed: int) -> Run:
    run = Run(plan, seed)
    vector = run.go()
    assert vector.tolist() == torch.ones_like(vector).tolist(), f"seed {seed}"
    assert [run.host.server.ledger[worker].round for worker in run.computed] == plan.workers * [plan.rounds]
    return run


def check(durability: str, seeds: range) -> None:
    crashes = [check_all_ones(Plan(durability), seed).epoch - 1 for seed in seeds]
    assert sum(crashes) >= len(seeds)  # so that it was tried


@pytest.mark.parametrize("durability", ["checkpoint", "update"])
def test_every_round_counts_once(durability):
    check(durability, SEEDS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("durability", ["checkpoint", "update"])
def test_every_round_counts_once_whatever_the_seed(durability):
    check(durability, MANY)


def check_nothing_anew(seeds: range) -> None:
    for seed in seeds:
        run = check_all_ones(Plan("update", deaths=0), seed)
        assert all(rounds == list(range(run.plan.rounds)) for rounds in run.computed.values()), f"seed {seed}"


def test_with_durable_updates_a_crash_of_the_server_has_nothing_computed_anew():
    check_nothing_anew(SEEDS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_with_durable_updates_it_never_has():
    check_nothing_anew(MANY)


def test_with_checkpoints_what_they_do_not_hold_is_computed_anew():
    runs = [check_all_ones(Plan(deaths=0), seed) for seed in SEEDS]
    assert any(len(rounds) > run.plan.rounds for run in runs for rounds in run.computed.values())


class Forgiving(Ledger):
    """Takes any round for the next one."""

    def sender(self, update: Update) -> Entry:
        entry = self[update.worker]
        entry.round = update.round
        return entry


class Forgetful(Desk):
    """Acts on whatever call comes after the first."""

    def _call(self, seat, call) -> None:
        if call.serial > 1:
            seat.received = seat.answered = call.serial - 1
        super()._call(seat, call)


QUIET = {"crashes": 0, "deaths": 0, "expiries": 0}


def test_naive_retries_count_rounds_twice():
    ends = [Run(Plan(**QUIET, client=Hasty, desk=Forgetful, ledger=Forgiving), seed) for seed in SEEDS]
    assert max(run.go().max() for run in ends) >= 2


@pytest.mark.parametrize(
    "parts", [{"ledger": Forgiving}, {"client": Hasty, "desk": Forgetful}], ids=["session", "ledger"]
)
def test_while_the_server_lives_either_of_the_two_precautions_is_enough(parts):
    for seed in SEEDS:
        check_all_ones(Plan(**QUIET, **parts), seed)
