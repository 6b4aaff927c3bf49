"""The hub: many threads at one server. Every exchange is answered once, and nobody ever sees a mix of two versions."""

import threading
from functools import partial

import pytest
import torch

from asgd.budget import Budget
from asgd.engines.hub import Hub
from asgd.ledger import ProtocolError
from asgd.messages import Model
from asgd.policies import NextVersion
from asgd.rules import MeanOfUpdates, MeanOfWorkers
from asgd.server import Deadlock, Server
from tests.scripted import a_server, an_update, equal, facts

SIZE = 10_000  # so large that a copy or a step takes a while


def a_hub(server: Server) -> Hub:
    return Hub(server, iter(range(10**9)).__next__)


def joined(hub: Hub, workers: int = 2) -> list:
    return [hub.join(worker, 10 * worker) for worker in range(1, workers + 1)]


def sync(workers: int = 2, **parts) -> Server:
    return a_server(workers, rule=MeanOfWorkers(), policy=NextVersion(), **parts)


def answer(future):
    """The reply that has to be there by now."""
    assert future.done()
    return future.value()


def wait(future):
    """The reply, once it is there; a reply that never comes is a failure and not a test that hangs."""
    here = threading.Event()
    future.then(lambda _: here.set())
    assert here.wait(30), "no reply"
    return future.value()


# Threads


def life(hub: Hub, worker: int, seen: list, failures: list) -> None:
    """Pull and push until the server says stop; every push is sent twice."""
    reply = wait(hub.join(worker, 10 * worker))
    round = 0
    while reply.model is not None:
        seen.append((worker, reply.model))
        payload = torch.full((SIZE,), float(worker))
        update = an_update(worker, round, reply.model.version, payload=payload, samples=1)
        first, second = hub.push(update), hub.push(update)
        reply, round = wait(first), round + 1
        if wait(second) is not reply:
            failures.append((worker, round))


def run_threads(server: Server, workers: int) -> tuple[Hub, list]:
    hub, seen, failures = a_hub(server), [], []
    threads = [threading.Thread(target=life, args=(hub, w, seen, failures), daemon=True) for w in range(1, workers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not failures
    return hub, seen


@pytest.mark.parametrize("make", [a_server, sync], ids=["async", "sync"])
def test_threads_that_push_at_once_and_twice_are_each_applied_exactly_once(make):
    server = make(6, initial=torch.zeros(SIZE), budget=Budget(updates=40))
    hub, seen = run_threads(server, 6)
    counts = server.counts
    sent = sum(entry.round for entry in server.ledger.values())
    assert server.version == 40 and server.ended == "budget" and hub.over.is_set() and hub.error is None
    assert counts["applied"] + counts["late"] == sent == counts["duplicate"] == len(seen)
    assert not hub.waiting


@pytest.mark.parametrize("make", [a_server, sync], ids=["async", "sync"])
def test_D9_nobody_sees_a_mix_of_two_versions(make):
    """Every update adds a constant vector, so every version is one."""
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)
    server = make(4, initial=torch.zeros(SIZE), budget=Budget(updates=60), optimizer=optimizer)
    _, seen = run_threads(server, 4)
    values = {}
    for _, model in seen:
        assert bool((model.params == model.params[0]).all())
        values.setdefault(model.version, set()).add(model.params[0].item())
    assert all(len(of_version) == 1 for of_version in values.values()) and len(values) > 10


class Careless(Server):
    """The mistake: what is handed out is the memory that the next step writes to."""

    def model(self):
        params = self.parameters.vector.detach()
        self.live = getattr(self, "live", params.clone()).copy_(params)
        return Model(self.version, self.live, self.buffers.value)


def handed_out_and_after(kind: type[Server]) -> tuple[torch.Tensor, torch.Tensor]:
    """What worker 1 got at the start, then and after a step by worker 2 that came before worker 1 had read it."""
    hub = a_hub(a_server(2, server=kind))
    model = answer(joined(hub)[0]).model
    then = model.params.clone()
    hub.push(an_update(2))
    return then, model.params


def test_D9_what_was_handed_out_is_not_touched_by_a_later_step():
    assert torch.equal(*handed_out_and_after(Server))


def test_D9_a_server_that_hands_out_its_own_memory_would_be_caught():
    assert not torch.equal(*handed_out_and_after(Careless))


# Futures


def test_a_future_is_done_only_when_its_reply_is_due():
    hub = a_hub(sync())
    first, second = joined(hub)
    assert first.done() and second.done() and answer(first).worker == 1
    early = hub.push(an_update(1))
    assert not early.done()
    late = hub.push(an_update(2))
    assert answer(early).model.version == answer(late).model.version == 1


def test_both_futures_of_an_update_sent_twice_are_answered():
    hub = a_hub(sync())
    joined(hub)
    futures = [hub.push(an_update(1)), hub.push(an_update(1))]
    hub.push(an_update(2))
    assert answer(futures[0]) is answer(futures[1])


def test_time_and_departures_answer_those_who_wait():
    hub = a_hub(sync(3))
    joined(hub, 3)
    waiting = [hub.push(an_update(1)), hub.push(an_update(2))]
    hub.leave(3)
    assert [answer(future).model.version for future in waiting] == [1, 1]
    again = hub.push(an_update(1, 1, 1))
    hub.tick()
    assert not again.done() and not hub.over.is_set()


def test_the_end_stops_everybody():
    hub = a_hub(sync())
    joined(hub)
    waiting = hub.push(an_update(1))
    hub.end("interrupted")
    assert answer(waiting).model is None and hub.over.is_set() and hub.error is None
    assert answer(hub.push(an_update(2))).model is None and answer(hub.join(3, 30)).model is None


# Errors


def test_a_message_that_cannot_be_right_is_its_senders_error_alone():
    server = sync()
    hub = a_hub(server)
    joined(hub)
    waiting, before = hub.push(an_update(1)), facts(server)
    for wrong in (an_update(2, round=5), an_update(2, session=1), an_update(3), an_update(2, payload=torch.ones(9))):
        with pytest.raises(ProtocolError):
            hub.push(wrong)
    assert equal(facts(server), before)
    assert not waiting.done() and not hub.over.is_set() and hub.error is None
    assert answer(hub.push(an_update(2))).model.version == answer(waiting).model.version == 1


class Broken(MeanOfWorkers):
    """A rule with a fault that shows at the first step."""

    def direction(self):
        raise ZeroDivisionError("the first fault")


def test_a_server_that_fails_frees_everybody_and_keeps_the_error():
    hub = a_hub(a_server(3, rule=Broken(), policy=NextVersion()))
    joined(hub, 3)
    futures = [hub.push(an_update(worker)) for worker in (1, 2)]
    assert not any(future.done() for future in futures)
    futures.append(hub.push(an_update(3)))
    assert [answer(future).model for future in futures] == [None, None, None]
    assert hub.over.is_set() and hub.server.ended == "error"
    assert isinstance(hub.error, ZeroDivisionError)
    assert answer(hub.push(an_update(1, 1))).model is None


def test_a_deadlock_frees_everybody_and_is_kept():
    hub = a_hub(a_server(2, rule=MeanOfUpdates(3), policy=NextVersion()))
    joined(hub)
    futures = [hub.push(an_update(1)), hub.push(an_update(2))]
    assert [answer(future).model for future in futures] == [None, None]
    assert isinstance(hub.error, Deadlock) and hub.over.is_set()


def test_a_departure_at_which_the_server_fails_frees_everybody():
    hub = a_hub(a_server(2, rule=Broken(), policy=NextVersion()))
    joined(hub)
    waiting = hub.push(an_update(1))
    hub.leave(2)
    assert answer(waiting).model is None and isinstance(hub.error, ZeroDivisionError)


class Faulty:
    """An observer that fails, first in one way and then in another."""

    def __init__(self):
        self.faults = iter([OSError("no space left"), KeyError("later")])

    def event(self, event):
        raise next(self.faults)


def test_the_error_that_came_first_is_kept():
    hub = a_hub(a_server(2))
    joined(hub)
    hub.server.observers.append(Faulty())
    assert answer(hub.push(an_update(1))).model is None
    assert answer(hub.push(an_update(2))).model is None
    assert isinstance(hub.error, OSError)
