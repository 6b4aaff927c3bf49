"""Parameters: the memory of a version is its snapshot. No step writes to it while anybody has it."""

from functools import partial

import pytest
import torch

from asgd import parameters
from asgd.parameters import Blocks, Parameters
from asgd.schedules import Constant

SIZE = 50
NONE = torch.empty(0)
MAKES = {
    "plain": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.1, fused=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
}


def some(make=MAKES["plain"]) -> Parameters:
    return Parameters(torch.zeros(SIZE), make, Constant())


def step(own: Parameters) -> None:
    own.step(torch.ones(SIZE), own.version + 1)


@pytest.fixture
def large(monkeypatch):
    """Vectors of any size are used again."""
    monkeypatch.setattr(Blocks, "LARGE", 0)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_d9_a_snapshot_is_the_versions_own_memory_and_stays(make, request):
    for again in (False, True):
        if again:
            request.getfixturevalue("large")
        own, given = some(make), []
        for _ in range(10):
            given.append((own.snapshot(NONE), own.vector.detach().clone()))
            assert given[-1][0].params.data_ptr() == own.vector.data_ptr()
            step(own)
        assert all(torch.equal(model.params, then) for model, then in given)
        assert len({model.params.data_ptr() for model, _ in given}) == 10


def test_the_initial_vector_belongs_to_the_caller():
    initial = torch.zeros(SIZE)
    own = Parameters(initial, MAKES["momentum"], Constant())
    initial.fill_(3.0)
    assert own.snapshot(NONE).params.count_nonzero() == 0


def test_two_blocks_serve_a_server_whose_snapshots_are_let_go(large):
    own, places = some(), set()
    for _ in range(20):
        step(own)
        places.add(own.snapshot(NONE).params.data_ptr())
    assert len(places) == len(own.blocks.blocks) == 2


HOLDERS = {
    "message": lambda params: params,
    "view": lambda params: params[SIZE // 2 :],
    "array": lambda params: params.numpy(),
    "part of an array": lambda params: params.numpy()[3:4],
    "storage": lambda params: params.untyped_storage(),
    "buffer": lambda params: memoryview(params.numpy()),
    "graph": lambda params: params.clone().requires_grad_().mul(params),  # saved for the backward pass
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_whoever_holds_a_part_of_a_block_keeps_it(hold, large):
    own = some()
    step(own)
    place, held = own.vector.data_ptr(), hold(own.snapshot(NONE).params)
    for _ in range(10):
        step(own)
        assert own.vector.data_ptr() != place
    del held
    places = set()
    for _ in range(3):
        step(own)
        places.add(own.vector.data_ptr())
    assert place in places


def test_a_careless_pool_would_be_caught(large, monkeypatch):
    monkeypatch.setattr(parameters, "is_free", lambda block: True)
    own = some()
    step(own)
    held = own.snapshot(NONE).params
    then = held.clone()
    for _ in range(3):
        step(own)
    assert not torch.equal(held, then)


def test_no_more_blocks_than_were_held_at_once(large):
    own, held = some(), []
    for count in (1, 5, 3, 5, 0):
        held = held[:count]
        while len(held) < count:
            step(own)
            held.append(own.snapshot(NONE))
    for _ in range(10):
        step(own)
    assert len(own.blocks.blocks) <= 5 + 2


def test_small_vectors_are_left_to_the_allocator():
    own = some()
    step(own)
    assert not own.blocks.blocks


def test_ahead_is_the_next_step_and_another_memory(large):
    own, direction = some(), torch.arange(float(SIZE))
    ahead, now = own.ahead(NONE, direction), own.snapshot(NONE)
    torch.testing.assert_close(ahead.params, now.params - 0.1 * direction, rtol=1e-6, atol=0)
    assert own.ahead(NONE, direction) is ahead and ahead.version == 0
    then = ahead.params.clone()
    for _ in range(5):
        step(own)
    assert torch.equal(ahead.params, then)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_state_stays_while_training_goes_on_and_leads_to_the_same_steps(make, large):
    own, other = some(make), some(make)
    for _ in range(3):
        step(own)
    state, then = own.state_dict(), own.vector.detach().clone()
    for _ in range(3):
        step(own)
    assert torch.equal(state["params"], then)
    for _ in range(2):  # a state serves more than once
        other.load_state_dict(state)
        for _ in range(3):
            step(other)
        assert torch.equal(own.vector, other.vector)
        assert (other.version, other.samples) == (6, 6)
    assert torch.equal(state["params"], then)
