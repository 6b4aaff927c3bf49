"""A deadlock is raised at once, with the table of who waits for what, and never suffered."""

import pytest

from asgd.policies import BoundedLead, Immediate, NextVersion
from asgd.rules import MeanOfUpdates
from asgd.server import Deadlock
from tests.scripted import a_server, an_update


def started(workers, **parts):
    server = a_server(workers, **parts)
    for worker in range(1, workers + 1):
        server.join(worker, 10 * worker, 0.0)
    return server


@pytest.mark.parametrize("rule", [MeanOfUpdates(3), MeanOfUpdates(5)], ids=lambda rule: f"count {rule.count}")
def test_a_deadlock_is_raised_at_once_with_who_waits_for_what(rule):
    server = started(2, rule=rule, policy=NextVersion())
    assert server.push(an_update(1), 1.0) == []
    with pytest.raises(Deadlock) as caught:
        server.push(an_update(2), 2.0)
    lines = str(caught.value).splitlines()
    assert lines[1:] == [f"  worker {w} waits for the version after 0" for w in (1, 2)]
    assert server.ended == "error"


def test_a_departure_that_leaves_only_waiting_workers_is_a_deadlock():
    server = started(3, rule=MeanOfUpdates(3), policy=NextVersion())
    server.push(an_update(1), 1.0), server.push(an_update(2), 2.0)
    with pytest.raises(Deadlock, match="worker 2 waits for the version after 0"):
        server.leave(3, 3.0)


class Forgetful(BoundedLead):
    """A policy with a fault: it releases nobody once a round has been completed."""

    def release(self, ledger, version):
        return [] if ledger.slowest() else super().release(ledger, version)


def test_a_fault_of_a_policy_shows_as_a_deadlock_and_not_as_a_run_that_hangs():
    server = started(1, policy=Forgetful(slack=0))
    with pytest.raises(Deadlock, match="worker 1 waits for clock 1 of the slowest worker"):
        server.push(an_update(1), 1.0)


def test_whoever_still_computes_is_no_deadlock():
    server = started(3, rule=MeanOfUpdates(3), policy=NextVersion())
    assert server.push(an_update(1), 1.0) == server.push(an_update(2), 2.0) == []
    assert server.ended is None


def test_no_reply_is_due_where_nobody_waits():
    server = started(1, policy=Immediate())
    assert server.tick(1.0) == [] and server.leave(1, 2.0) == [] and server.tick(3.0) == []
