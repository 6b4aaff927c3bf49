"""The host of a real run: how it waits for the end."""

import pytest

from asgd.engines.host import SHORTEST, Host
from tests.scripted import a_job


class Elapsing:
    """An event whose ``wait`` takes no time but moves the ``now`` of a clock."""

    def __init__(self):
        self.now, self.happened = 0.0, False

    def __call__(self) -> float:
        return self.now

    def set(self) -> None:
        self.happened = True

    def wait(self, seconds: float) -> bool:
        assert seconds > 0, "that would be busy waiting"
        self.now += 0.0 if self.happened else seconds
        return self.happened


@pytest.mark.parametrize("seconds", [0.1, 1.3, 2.0])
def test_a_run_in_which_nobody_arrives_ends_when_its_seconds_are_spent(tmp_path, seconds):
    host = Host(a_job(f"budget.seconds={seconds}"), tmp_path, lambda model: None, "continue")
    try:
        host.clock = host.hub.clock = host.hub.over = clock = Elapsing()
        clock.now = 0.07
        host.hub.join(1, session=1), host.hub.join(2, session=2)
        host.wait(join_timeout=300)
        assert host.server.ended == "budget"
        assert 0 < host.server.training_seconds(clock()) - seconds < 1.01 * SHORTEST
    finally:
        host.close()
