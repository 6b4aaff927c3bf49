"""Policies: who goes on and who waits, on scripted and on random orders of arrival."""

import numpy as np
import pytest

from asgd.ledger import Ledger
from asgd.policies import BoundedLead, Immediate, NextVersion
from tests.scripted import a_job, with_formula


def ledger(clocks: dict[int, int]) -> Ledger:
    """Active workers that all wait, at these clocks."""
    made = Ledger()
    for worker, clock in clocks.items():
        made.join(worker, 10 * worker, clock)
    return made


def constant(rank, round, params):
    return params * 0 + 1.0


def ssp(slack: int, workers: int):
    return with_formula(a_job("topology=ssp", f"topology.slack={slack}", f"workers={workers}"), constant)


def clocks(script) -> dict[int, int]:
    return {worker: entry.clock for worker, entry in script.server.ledger.items()}


def test_immediate_lets_everybody_go_on():
    assert Immediate().release(ledger({1: 0, 2: 50, 3: 7}), 0) == [1, 2, 3]


def test_next_version_holds_who_has_contributed_to_this_one():
    made = ledger({1: 0, 2: 0, 3: 0})
    made[1].contributed, made[2].contributed = 4, 3
    assert NextVersion().release(made, 4) == [2, 3] and NextVersion().release(made, 5) == [1, 2, 3]
    assert NextVersion().reason(made, 1) == "the version after 4"


@pytest.mark.parametrize("slack", [0, 1, 3])
def test_bounded_lead_compares_with_the_slowest_that_is_there(slack):
    made = ledger({worker: worker for worker in range(1, 8)})
    assert BoundedLead(slack).release(made, 0) == [worker for worker in range(1, 8) if worker - 1 <= slack]
    made.leave(1)
    assert BoundedLead(slack).release(made, 0) == [worker for worker in range(2, 8) if worker - 2 <= slack]
    assert BoundedLead(slack).reason(made, 7) == f"clock {7 - slack} of the slowest worker"


def test_a_negative_slack_is_refused():
    with pytest.raises(ValueError, match="slack=-1"):
        BoundedLead(-1)


@pytest.mark.parametrize("slack", [0, 1, 3])
def test_A9_a_fast_worker_stops_slack_plus_one_rounds_ahead_of_a_silent_one(slack):
    script = ssp(slack, workers=2)
    for _ in range(slack + 1):
        assert 1 in script.held
        script.arrive(1)
    assert 1 not in script.held and clocks(script) == {1: slack + 1, 2: 0}
    script.arrive(2)
    assert script.held.keys() == {1, 2} and script.held[1].version == slack + 2


@pytest.mark.parametrize("slack", [0, 1, 2, 5])
@pytest.mark.parametrize("workers", [2, 5])
def test_A9_the_lead_is_at_most_slack_plus_one_and_nobody_starts_beyond_slack(slack, workers):
    script, spread = ssp(slack, workers), set()

    def check():
        now = clocks(script)
        spread.add(max(now.values()) - min(now.values()))
        assert all(now[worker] - min(now.values()) <= slack for worker in script.held)
        assert all(now[worker] - min(now.values()) > slack for worker in now if worker not in script.held)

    script.arrive_at_random(np.random.default_rng(slack), 400, check)
    assert max(spread) == slack + 1


@pytest.mark.parametrize("slack", [0, 2])
def test_A9_a_view_holds_all_that_slack_allows_and_the_workers_own_updates(slack):
    script, seen = ssp(slack, workers=4), {}

    def check():
        for worker, model in script.held.items():
            clock = script.server.ledger[worker].clock
            seen[worker, clock] = model.version
            stamped = sum(1 for event in script.pushes()[: model.version] if event.round <= clock - slack - 1)
            assert stamped == 4 * max(clock - slack, 0)
            own = [event for event in script.pushes()[: model.version] if event.worker == worker]
            assert len(own) == clock

    script.arrive_at_random(np.random.default_rng(7), 60, check)
    assert len(seen) > 40


def test_A9_and_C8_slack_zero_is_a_barrier():
    script = ssp(0, workers=3)
    generator = np.random.default_rng(1)
    for clock in range(20):
        assert script.held.keys() == {1, 2, 3} and set(clocks(script).values()) == {clock}
        script.arrive(*(int(worker) for worker in generator.permutation([1, 2, 3])))


def test_A9_a_slack_beyond_the_rounds_never_holds_anybody():
    script = ssp(100, workers=3)
    script.arrive_at_random(np.random.default_rng(2), 100, lambda: script.held.keys() == {1, 2, 3} or pytest.fail())
