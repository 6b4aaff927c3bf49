"""TensorBoard events, in ``tensorboard/`` of the run folder: ``tensorboard --logdir outputs``."""

import json
from pathlib import Path

from asgd.trackers.base import Point, Tracker, numbers


class TensorBoard(Tracker):
    """Steps are versions; TensorBoard's relative time is the run's own, virtual where that is."""

    option, packages = "tensorboard=true", ("tensorboard",)

    def open(self, folder: Path, parameters: dict, begun: float, version: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        after = version + 1 if version else None  # what a killed run had written beyond its checkpoint is void
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after)
        self.begun, self.version, self.parameters = begun, version, parameters
        rows = [f"|{name}|{json.dumps(value)}|" for name, value in parameters.items()]
        self.writer.add_text("parameters", "\n".join(["|option|value|", "|-|-|", *rows]), version, begun)

    def write(self, points: list[Point]) -> None:
        for version, seconds, figures in points:
            self.version = max(self.version, version)
            for name, value in figures.items():
                self.writer.add_scalar(name, value, version, self.begun + seconds)
        self.writer.flush()  # a run may be killed at any moment

    def close(self, summary: dict) -> None:
        for name, value in numbers(summary).items():
            self.writer.add_scalar(f"summary/{name}", value, self.version)
        self.writer.close()
