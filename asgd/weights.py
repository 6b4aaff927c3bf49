"""Weights: a number for a staleness; 0 discards the update.

Staleness counts the server's updates between the version a gradient was computed at and the one it meets.
"""


class Constant:
    """Every update counts fully (ASGD, Downpour: Dean et al., NeurIPS 2012)."""

    def __call__(self, staleness: int) -> float:
        return 1.0


class Inverse:
    """1/staleness, and 1 for a fresh update (Zhang, Gupta, Lian, Liu, IJCAI 2016, arXiv:1511.05950)."""

    def __call__(self, staleness: int) -> float:
        return 1.0 / max(staleness, 1)


class Cutoff:
    """Updates staler than ``limit`` are discarded (backup workers: limit 0; Chen et al. 2016, arXiv:1604.00981)."""

    def __init__(self, limit: int = 0):
        if limit < 0:
            raise ValueError(f"limit={limit}: the greatest staleness that is still applied, 0 or more")
        self.limit = limit

    def __call__(self, staleness: int) -> float:
        return 1.0 if staleness <= self.limit else 0.0
