"""Reading run folders. Imports no training code: notebooks and reports need nothing else."""

import json
from pathlib import Path

import pandas as pd


def summary(folder: str | Path) -> dict:
    """``summary.json`` of a finished run."""
    return json.loads((Path(folder) / "summary.json").read_text())


def parameters(folder: str | Path) -> dict:
    """``parameters.json``: the resolved configuration and what the run was made with."""
    return json.loads((Path(folder) / "parameters.json").read_text())


def updates(folder: str | Path) -> pd.DataFrame:
    """The server's events, one row each, in the order of arrival."""
    return pd.read_csv(Path(folder) / "stats" / "ps" / "updates.csv")


def evaluation(folder: str | Path) -> pd.DataFrame:
    """The evaluations on the validation set."""
    return pd.read_csv(Path(folder) / "stats" / "ps" / "evaluation.csv")


def metrics(folder: str | Path) -> pd.DataFrame:
    """The rounds of all workers, with a column ``worker``."""
    paths = sorted(Path(folder).glob("stats/worker*/training_metrics.csv"))
    tables = [pd.read_csv(path).assign(worker=int(path.parent.name.removeprefix("worker"))) for path in paths]
    return pd.concat(tables, ignore_index=True)


def system_stats(folder: str | Path) -> pd.DataFrame:
    """What the processes of all nodes used, once a second, with a column ``node``."""
    paths = sorted(Path(folder).glob("stats/*/system_stats.csv"))
    return pd.concat([pd.read_csv(path).assign(node=path.parent.name) for path in paths], ignore_index=True)


def load(root: str | Path) -> pd.DataFrame:
    """One row per run found under ``root``: its folder, flattened configuration and summary (empty if unfinished)."""
    runs = sorted(path.parent for path in Path(root).glob("**/parameters.json") if path.parent.parent.name != "stats")
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Path) -> dict:
    config = pd.json_normalize(parameters(run)["config"]).iloc[0].to_dict()
    return {"folder": str(run)} | config | (summary(run) if (run / "summary.json").exists() else {})
