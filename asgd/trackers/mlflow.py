"""MLflow: metrics by version, parameters and summary of the run."""

import logging
import os
from pathlib import Path

from asgd.trackers.base import Point, Tracker, numbers

LONGEST = 6000  # characters of a parameter's value


class Mlflow(Tracker):
    """``uri``: the tracking server or store; None: MLFLOW_TRACKING_URI, else ``mlflow.db`` in the run folder."""

    option, packages = "tracker=mlflow", ("mlflow", "sqlalchemy", "alembic")
    MARK = "stats/ps/.mlflow"  # in the run folder: the id of the run

    def __init__(self, uri: str | None = None, experiment: str = "asgd", name: str | None = None):
        self.uri, self.experiment, self.name = uri, experiment, name

    def open(self, folder: Path, parameters: dict, begun: float, version: int) -> None:
        from mlflow.tracking import MlflowClient

        for each in ("mlflow", "alembic"):
            logging.getLogger(each).setLevel(logging.WARNING)
        own = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        registry = uri if uri.startswith("http") else folder.resolve().as_uri()  # nothing is registered
        self.client, self.begun = MlflowClient(uri, registry), begun
        self.run = self._known(folder / self.MARK) or self._create(folder, parameters)

    def _known(self, mark: Path) -> str | None:
        """The run that this one goes on with."""
        if not mark.exists():
            return None
        self.client.update_run(mark.read_text(), status="RUNNING")
        return mark.read_text()

    def _create(self, folder: Path, parameters: dict) -> str:
        from mlflow.entities import Param

        found = self.client.get_experiment_by_name(self.experiment)
        artifacts = (folder / "mlflow").resolve().as_uri()
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment, artifacts)
        name = self.name or "/".join(folder.parts[-2:])
        run = self.client.create_run(experiment, int(self.begun * 1e3), run_name=name)
        given = [Param(name, str(value)[:LONGEST]) for name, value in parameters.items()]
        for first in range(0, len(given), 100):  # the API takes no more at once
            self.client.log_batch(run.info.run_id, params=given[first : first + 100])
        (folder / self.MARK).write_text(run.info.run_id)
        return run.info.run_id

    def write(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int((self.begun + seconds) * 1e3), version)
            for version, seconds, figures in points
            for name, value in figures.items()
        ]
        for first in range(0, len(metrics), 1000):
            self.client.log_batch(self.run, metrics=metrics[first : first + 1000])

    def close(self, summary: dict) -> None:
        for name, value in numbers(summary).items():
            self.client.log_metric(self.run, f"summary/{name}", value)
        self.client.set_tag(self.run, "ended", summary.get("ended", "unknown"))
        failed = summary.get("ended") in (None, "error")
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")
