"""Sessions, searched through: no way of a network and of crashes acts on a call twice, loses it, or mixes it.

``tests.protocol`` says what may happen. For each of ``SMALL`` every way is tried, 14,800 states in all; in each of them
the network then becomes faithful, and every call has to end. Walks at random go further, with two clients at once, more
calls and more crashes; the slow tests search through the 320,000 nearest states of ``LARGE`` and walk much longer.
An end or a desk with one of its precautions left out is found out by the same search.

Across the deaths of desks a call may be acted on once by each: what the dead one did is for its successor's state to
tell (``tests.test_rounds``).
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from asgd.engines.star import client, desk, session
from asgd.engines.star.client import Client
from asgd.engines.star.desk import Desk
from asgd.engines.star.session import Incoming, State
from tests.protocol import Broken, Limits, World, explore, wander

SHORT = Limits(beats=1, sizes=(1,), answers=(1,))
SMALL = {
    "lost, doubled and reordered": replace(SHORT, calls=3, sizes=(2,)),
    "read late": replace(SHORT, calls=3),
    "read early": replace(SHORT, calls=3, copies=True),
    "a desk that dies": replace(SHORT, crashes=1),
    "a client that dies": replace(SHORT, deaths=1, answers=()),
    "a lease that runs out": replace(SHORT, expiries=1, answers=()),
    "a call that is refused": replace(SHORT, calls=3, refused=2),
}
LARGE = {
    "two beats": replace(SHORT, beats=2),
    "three calls": replace(SHORT, calls=3, beats=2, answers=()),
    "pieces": Limits(beats=2, sizes=(2, 1), answers=(2,)),
    "two clients": replace(SHORT, clients=2, answers=()),
    "a desk that dies": replace(SHORT, beats=2, crashes=1),
    "everything": replace(SHORT, beats=2, crashes=1, deaths=1, expiries=1, answers=()),
}
WALKS = Limits(clients=2, calls=4, beats=6, crashes=2, deaths=1, expiries=1, sizes=(3, 0, 1), answers=(2, 1))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """A message carries one byte of a vector."""
    monkeypatch.setattr(session, "CHUNK", 1)


@pytest.mark.parametrize("name", SMALL)
def test_no_way_acts_twice_mixes_or_hangs(name):
    assert explore(SMALL[name]) > 400


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LARGE)
def test_no_longer_way_does_either(name):
    assert explore(LARGE[name], most=80_000) > 9_000


def check_a_walk(choices: list[int]) -> None:
    wander(WALKS, choices)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(some.lists(some.integers(0, 10**6), min_size=20, max_size=80))
def test_no_walk_at_random_does(choices):
    check_a_walk(choices)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=5000, deadline=None, derandomize=True, database=None)
@given(some.lists(some.integers(0, 10**6), min_size=60, max_size=250))
def test_no_long_walk_at_random_does(choices):
    check_a_walk(choices)


# Ends and desks that leave a precaution out


class Hasty(Client):
    """Sends its call again whenever it has not been answered yet."""

    def _look(self, state: State) -> Iterator:
        return self._send() if self.calling else iter(())


class Naive(Desk):
    """Acts on whatever call comes."""

    def _call(self, seat, call) -> None:
        seat.received = seat.answered = call.serial - 1
        super()._call(seat, call)


class Oblivious(Desk):
    """Does not remember which sessions have ended."""

    def close(self, session: int) -> None:
        super().close(session)
        self.ended.clear()


class Careless(Desk):
    """Takes any piece for one of the call that is coming."""

    def _receive(self, seat, message, piece) -> None:
        if piece is not None and seat.coming:
            message = session.More(message.session, seat.coming[0].serial, message.vector, message.at)
        super()._receive(seat, message, piece)


class Credulous(Client):
    """Takes any answer for the one to its call."""

    def _take(self, message, piece) -> None:
        if self.calling:
            message = type(message)(message.session, self.serial, *list(as_tuple(message))[2:])
            super()._take(message, piece)


class Silent(Desk):
    """Does not say how far a call is."""

    def _receive(self, seat, message, piece) -> None:
        if not isinstance(message, session.Beat):
            super()._receive(seat, message, piece)


class Blunt(Desk):
    """Does not say that it does not know a session."""

    def _unknown(self, peer, message) -> None:
        pass


class Unordered(Incoming):
    """Puts a piece behind the last one, whichever it is."""

    def receive(self, more, piece) -> None:
        super().receive(session.More(more.session, more.serial, self.vector, self.at), piece)


def as_tuple(message) -> tuple:
    return tuple(getattr(message, name) for name in message.__struct_fields__)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (replace(SHORT, client=Hasty, desk=Naive), "acted on twice"),
        (replace(SHORT, desk=Naive), "acted on twice"),
        (replace(SHORT, expiries=1, desk=Oblivious), "acted on twice"),
        (replace(SHORT, calls=3, copies=True, desk=Careless), "and was"),
        (replace(SHORT, calls=3, client=Credulous), "is answered"),
        (replace(SHORT, desk=Silent), "never ends"),
        (replace(SHORT, crashes=1, desk=Blunt), "never ends"),
    ],
    ids=["naive retries", "no numbers", "no memory of ended ones", "no serials", "any answer", "silent", "blunt"],
)
def test_without_a_precaution_the_same_search_finds_what_goes_wrong(limits, what):
    with pytest.raises(Broken, match=what):
        explore(limits, most=20_000)


def test_pieces_out_of_turn_would_be_mixed(monkeypatch):
    for end in (client, desk):
        monkeypatch.setattr(end, "Incoming", Unordered)
    with pytest.raises(Broken, match="and was"):
        explore(Limits(beats=1, sizes=(2,), answers=()), most=20_000)


# One thing at a time


def a_world(**limits) -> World:
    return World(replace(SHORT, **limits))


def follow(world: World, *actions: tuple) -> World:
    for action in actions:
        world.do(action)
    return world


def test_a_client_whose_desk_died_learns_that_its_session_is_lost():
    world = a_world(crashes=1)
    follow(world, ("call", 0), ("hand", 0), ("answer", 0), ("bring", 0), ("call", 0), ("crash", 0))
    world.settle()
    assert world.processes[0].end.lost and world.acted == [(0, 1, 1)]


def test_a_first_call_that_its_desk_died_with_is_made_again():
    world = follow(a_world(crashes=1), ("call", 0), ("hand", 0), ("crash", 0))
    world.settle()
    assert world.acted == [(0, 1, 1), (1, 1, 1)] and world.processes[0].end.answer


def test_the_call_after_a_refused_one_is_acted_on():
    world = a_world(calls=3, refused=2)
    for _ in range(3):
        world.do(("call", 0))
        world.settle()
    assert world.acted == [(0, 1, 1), (0, 1, 3)] and not world.processes[0].end.refused


def test_all_that_is_over_is_told_with_the_next_beat():
    world = follow(a_world(), ("call", 0), ("hand", 0))
    world.desk.over = True
    follow(world, ("beat", 0), ("hand", 1), ("bring", 0))
    assert world.processes[0].end.over
