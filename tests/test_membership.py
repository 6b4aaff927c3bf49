"""Workers come and go: who starts when, what a departure completes, and where a late one begins."""

from itertools import permutations

import pytest

from asgd.messages import Reply
from asgd.policies import BoundedLead, NextVersion
from asgd.rules import MeanOfWorkers
from asgd.weights import Cutoff
from tests.scripted import Script, a_server, an_update, equal, facts


def sync(workers, **parts):
    return a_server(workers, rule=MeanOfWorkers(), policy=NextVersion(), **parts)


def ssp(workers, slack):
    return a_server(workers, policy=BoundedLead(slack))


def join(server, *workers):
    return [reply for worker in workers for reply in server.join(worker, 10 * worker, 0.0)]


def who(replies):
    assert all(reply.model is not None for reply in replies)
    return [reply.worker for reply in replies]


# The start


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_nobody_gets_a_model_before_all_have_joined_in_any_order(order):
    server = sync(3)
    assert join(server, *order[:2]) == [] and not server.started
    replies = join(server, order[2])
    assert who(replies) == [1, 2, 3] and {reply.model.version for reply in replies} == {0}


def test_joining_twice_or_with_a_new_session_does_not_stand_for_another_worker():
    server = a_server(3)
    assert join(server, 1, 2, 2) == []
    assert server.join(2, 21, 0.0) == [] and not server.started
    assert who(join(server, 3)) == [1, 2, 3]


def test_the_others_start_without_a_worker_that_left_before_it_joined():
    server = a_server(3)
    assert join(server, 1, 3) == []
    assert who(server.leave(2, 1.0)) == [1, 3]


def test_the_others_start_without_a_worker_that_joined_and_left_before_the_start():
    server = a_server(3)
    assert join(server, 1, 2) == [] and server.leave(1, 1.0) == []
    assert who(join(server, 3)) == [2, 3]


def test_a_departure_before_the_start_is_on_record_since_it_may_be_the_start():
    server = a_server(2)
    script = Script(server, join=False)
    join(server, 1), server.leave(2, 1.0), server.leave(2, 2.0)
    assert [(e.event, e.worker, e.waiting) for e in script.events] == [("join", 1, 1), ("leave", 2, 0)]


def test_a_worker_that_left_before_the_start_may_come_back():
    server = a_server(2)
    assert server.leave(1, 0.0) == [] and server.leave(1, 0.0) == []
    assert join(server, 1) == [] and who(join(server, 2)) == [1, 2]


def test_nothing_starts_when_everybody_left_before_joining():
    server = a_server(2)
    assert server.leave(1, 0.0) == [] and server.leave(2, 0.0) == []
    assert not server.started and server.version == 0


def test_leaving_before_the_start_waits_for_those_who_are_still_to_come():
    server = a_server(3)
    assert join(server, 1) == [] and server.leave(2, 1.0) == [] and not server.started


# Leaving


def test_leaving_completes_a_barrier():
    server = sync(3)
    join(server, 1, 2, 3)
    server.push(an_update(1, value=1.0), 1.0), server.push(an_update(2, value=3.0), 2.0)
    replies = server.leave(3, 3.0)
    assert who(replies) == [1, 2] and server.version == 1
    assert replies[0].model.params.tolist() == [-2.0] * 3


def test_what_a_worker_gave_before_it_left_still_counts():
    server = sync(3)
    join(server, 1, 2, 3)
    server.push(an_update(1, value=3.0), 1.0)
    assert server.leave(1, 2.0) == []
    server.push(an_update(2, value=6.0), 3.0)
    replies = server.push(an_update(3, value=9.0), 4.0)
    assert who(replies) == [2, 3] and replies[0].model.params.tolist() == [-6.0] * 3


def test_leaving_unblocks_bounded_lead():
    server = ssp(3, slack=0)
    join(server, 1, 2, 3)
    assert server.push(an_update(1), 1.0) == [] and server.push(an_update(2), 2.0) == []
    replies = server.leave(3, 3.0)
    assert who(replies) == [1, 2] and {reply.model.version for reply in replies} == {2}


def test_leaving_completes_a_step_that_needed_more_workers_than_there_are_left():
    server = a_server(4, rule=MeanOfWorkers(3), weight=Cutoff(0), policy=NextVersion())
    join(server, 1, 2, 3, 4)
    server.push(an_update(1, value=2.0), 1.0)
    assert server.leave(2, 2.0) == [] and server.leave(3, 3.0) == []
    replies = server.leave(4, 4.0)
    assert who(replies) == [1] and replies[0].model.params.tolist() == [-2.0] * 3


def test_leaving_twice_is_leaving_once():
    server = sync(3)
    join(server, 1, 2, 3)
    script = Script(server, join=False)
    server.push(an_update(1), 1.0), server.leave(3, 2.0)
    before, events = facts(server), len(script.events)
    assert server.leave(3, 3.0) == [] and server.leave(7, 3.0) == []
    assert equal(facts(server), before) and len(script.events) == events


def test_who_has_left_gets_no_reply():
    server = sync(2)
    join(server, 1, 2)
    assert server.push(an_update(1), 1.0) == [] and server.leave(1, 2.0) == []
    assert who(server.push(an_update(2), 3.0)) == [2]


# Coming late


def test_a_late_joiner_starts_at_the_slowest_round_and_holds_nobody_up():
    server = ssp(2, slack=1)
    join(server, 1, 2)
    for round in range(5):
        server.push(an_update(1, round), 1.0), server.push(an_update(2, round), 2.0)
    server.push(an_update(1, 5), 3.0)
    replies = join(server, 3)
    assert who(replies) == [3] and replies[0].model.version == 11
    assert server.ledger[3].clock == min(server.ledger[1].clock, server.ledger[2].clock) == 5
    assert server.ledger[3].round == 0
    assert who(server.push(an_update(2, 5), 4.0)) == [2]
    assert who(server.push(an_update(3, 0), 5.0)) == [3]


def test_a_late_joiner_of_a_barrier_gets_the_present_model_and_takes_part():
    server = sync(2)
    join(server, 1, 2)
    server.push(an_update(1, value=3.0), 1.0)
    replies = join(server, 3)
    assert who(replies) == [3] and replies[0].model.version == 0
    assert server.push(an_update(2, value=6.0), 2.0) == []
    replies = server.push(an_update(3, value=9.0), 3.0)
    assert who(replies) == [1, 2, 3] and replies[0].model.params.tolist() == [-6.0] * 3


def test_a_worker_that_comes_back_goes_on_with_its_rounds_and_not_behind_the_others():
    server = ssp(2, slack=0)
    join(server, 1, 2)
    server.push(an_update(1), 1.0)
    assert who(server.leave(2, 2.0)) == [1]
    for round in (1, 2, 3):
        assert who(server.push(an_update(1, round), 3.0)) == [1]
    assert who(server.join(2, 21, 4.0)) == [2]
    assert (server.ledger[2].round, server.ledger[2].clock) == (0, 4)


def test_who_comes_back_within_a_version_it_has_contributed_to_waits_for_the_next():
    server = sync(2)
    join(server, 1, 2)
    server.push(an_update(1, value=2.0), 1.0)
    assert server.join(1, 11, 2.0) == []
    replies = server.push(an_update(2, value=4.0), 3.0)
    assert who(replies) == [1, 2] and replies[0].model.params.tolist() == [-3.0] * 3


def test_a_new_session_frees_those_who_waited_for_the_old_one():
    server = sync(2)
    join(server, 1, 2)
    server.push(an_update(1), 1.0)
    replies = server.join(2, 21, 2.0)
    assert who(replies) == [1, 2] and {reply.model.version for reply in replies} == {1}


def test_who_joins_after_the_end_is_told_to_stop():
    server = a_server(1)
    join(server, 1)
    assert server.end("interrupted") == []
    assert join(server, 2) == [Reply(2, None)] and server.ended == "interrupted"
