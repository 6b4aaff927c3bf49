"""The ledger: what belongs here, what came before, and who is slowest."""

import random

import pytest
import torch

from asgd.ledger import Ledger, ProtocolError
from asgd.messages import Model, Reply
from tests.scripted import an_update


def ledger(**clocks):
    """A ledger of active workers, w1=3 for worker 1 at clock 3."""
    made = Ledger()
    for name, clock in clocks.items():
        made.join(int(name[1:]), 10 * int(name[1:]), clock)
    return made


def test_a_worker_waits_from_its_join_to_its_answer_and_from_its_update_to_the_next():
    made = ledger(w1=0)
    assert made.waiting() == [1] and made[1].waiting
    answer = made.answered(1, None)
    assert answer == Reply(1, None)
    assert made.waiting() == [] and made[1].reply is answer and not made[1].waiting
    made.received(1)
    assert made.waiting() == [1] and made[1].reply is None
    assert (made[1].round, made[1].clock) == (1, 1)


def test_who_waits_is_told_in_the_order_of_the_numbers():
    assert ledger(w3=0, w1=0, w2=0).waiting() == [1, 2, 3]


def test_the_slowest_is_looked_for_among_the_active():
    made = ledger(w1=5, w2=2, w3=7)
    assert made.slowest() == 2
    made.leave(2)
    assert made.slowest() == 5 and made.active() == {1, 3} and made.waiting() == [1, 3]
    made.leave(1), made.leave(3)
    assert made.slowest() == 0 and made.active() == set()


@pytest.mark.parametrize("seed", range(20))
def test_the_slowest_is_known_whoever_comes_goes_and_goes_on(seed):
    chance, made = random.Random(seed), Ledger()
    for _ in range(300):
        worker = chance.randint(1, 5)
        if worker not in made.active():
            made.join(worker, worker, clock=chance.randint(0, 9))
        else:
            chance.choice((made.received, made.received, made.leave))(worker)
        if chance.random() < 0.3:  # not always: what is not asked for may be looked for later
            assert made.slowest() == min((made[each].clock for each in made.active()), default=0)


def test_a_new_session_keeps_the_rounds_and_never_lowers_the_clock():
    made = ledger(w1=0)
    for _ in range(3):
        made.received(1)
    made.leave(1)
    made.join(1, 11, clock=2)
    assert (made[1].round, made[1].clock, made[1].session) == (3, 3, 11)
    made.join(1, 12, clock=9)
    assert (made[1].round, made[1].clock) == (3, 9)


def test_older_rounds_are_duplicates_and_later_ones_are_gaps():
    made = ledger(w1=0)
    made.received(1), made.received(1)
    assert made.sender(an_update(1, 0)) is made.sender(an_update(1, 1)) is made[1]
    with pytest.raises(ProtocolError, match="round 2 came before it was given a model"):
        made.sender(an_update(1, 2))
    made.answered(1, Model(0, torch.zeros(3), torch.zeros(2)))
    assert made.sender(an_update(1, 2)) is made[1]
    with pytest.raises(ProtocolError, match="round 4 came before round 2; an update was lost"):
        made.sender(an_update(1, 4))


@pytest.mark.parametrize("session", [0, 11, 20])
def test_another_session_is_no_duplicate_but_refused(session):
    made = ledger(w1=0)
    made.received(1)
    with pytest.raises(ProtocolError, match=f"worker 1: session {session} has not joined or was replaced"):
        made.sender(an_update(1, 0, session=session))


def test_a_restored_ledger_remembers_rounds_and_clocks_but_nobody_is_there():
    made = ledger(w1=0, w2=4)
    made.received(1)
    made[1].contributed = 7
    restored = Ledger()
    restored.load_state_dict(made.state_dict())
    assert restored.active() == set() and restored.waiting() == []
    assert [(e.round, e.clock, e.contributed) for e in restored.values()] == [(1, 1, 7), (0, 4, None)]
    with pytest.raises(ProtocolError):
        restored.sender(an_update(1, 0))
