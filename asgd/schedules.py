"""Learning-rate schedules: a factor on the optimizer's lr as a pure function of the server's progress.

They run on the server and count its updates or samples (``schedule.unit``), never a worker's epochs. Being functions
of the count, they need no state to resume.
"""

from math import cos, pi


class Constant:
    """Linear warm-up over the first ``warmup`` counts, then 1."""

    def __init__(self, unit: str = "updates", warmup: int = 0):
        if unit not in ("updates", "samples"):
            raise ValueError(f"schedule.unit={unit}: updates or samples")
        if warmup < 0:
            raise ValueError(f"schedule.warmup={warmup}: 0 or more {unit}")
        self.unit, self.warmup = unit, warmup

    def factor(self, updates: int, samples: int) -> float:
        """The factor for the step that follows ``updates`` updates and ``samples`` samples."""
        count = {"updates": updates, "samples": samples}[self.unit]
        return min(1.0, (count + 1) / (self.warmup + 1)) * self.decay(count)

    def decay(self, count: int) -> float:
        return 1.0


class Step(Constant):
    """Times ``gamma`` at each of the ``milestones``."""

    def __init__(self, milestones: list[int], gamma: float = 0.1, unit: str = "updates", warmup: int = 0):
        super().__init__(unit, warmup)
        if list(milestones) != sorted(set(milestones)) or any(m < 1 for m in milestones):
            raise ValueError(f"schedule.milestones={list(milestones)}: increasing counts from 1 on")
        if not gamma > 0:
            raise ValueError(f"schedule.gamma={gamma}: more than 0")
        self.milestones, self.gamma = list(milestones), gamma

    def decay(self, count: int) -> float:
        return self.gamma ** sum(count >= milestone for milestone in self.milestones)


class Cosine(Constant):
    """Half a cosine from 1 at 0 down to ``final`` at ``length`` counts (Loshchilov, Hutter 2017, arXiv:1608.03983)."""

    def __init__(self, length: int, final: float = 0.0, unit: str = "updates", warmup: int = 0):
        super().__init__(unit, warmup)
        if length is None or length < 1:
            raise ValueError(f"schedule.length={length}: the {unit} over which the rate falls, 1 or more")
        if not 0 <= final <= 1:
            raise ValueError(f"schedule.final={final}: the factor at the end, 0 to 1")
        self.length, self.final = length, final

    def decay(self, count: int) -> float:
        progress = min(count / self.length, 1.0)
        return self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2
