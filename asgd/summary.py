"""``summary.json``: a finished run in twenty figures, from its server and its own tables."""

from pathlib import Path

import numpy as np

from asgd import results
from asgd.records import SUMMARY, write_json
from asgd.server import Server


def summarise(
    folder: Path, server: Server, seconds: float, skipped: int, failed: int, target: dict, undone: int = 0
) -> dict:
    """Write and return the summary. ``seconds`` is the training time; rates are per second of it.

    ``target``: a loss and an accuracy on the validation set, None where it does not matter. ``undone``: pushes
    that were taken out again where the run was resumed.
    """
    figures = {
        "ended": server.ended,
        "updates": server.version,
        "samples": server.samples,
        "seconds": seconds,
        "updates_per_s": server.version / seconds if seconds else 0.0,
        "samples_per_s": server.samples / seconds if seconds else 0.0,
        **evaluations(folder),
        **staleness(folder),
        **server.counts,
        "rolled_back": undone,
        "skipped_samples": skipped,
        "failed_workers": failed,
        "bytes_pushed": int(results.updates(folder)["bytes"].sum()),
        "bytes_pulled": server.given * server.model_bytes,
        "target_seconds": target_seconds(folder, **target),
    }
    content = {name: figures[name] for name in SUMMARY}
    write_json(folder / "summary.json", content)
    return content


def evaluations(folder: Path) -> dict:
    """The last and the best figures on the validation set; None without an evaluation."""
    table = results.evaluation(folder)
    figures = {}
    for name, best in (("loss", min), ("accuracy", max), ("top_k_accuracy", max)):
        column = table[name].dropna()
        figures[f"final_{name}"] = float(column.iloc[-1]) if len(column) else None
        figures[f"best_{name}"] = float(best(column)) if len(column) else None
    return figures


def target_seconds(folder: Path, loss: float | None, accuracy: float | None) -> float | None:
    """Training seconds to the first evaluation that is as good as both; None where there is none, or no target."""
    table, events = results.evaluation(folder), results.updates(folder)
    reached = [] if loss is None else [table.loss <= loss]
    reached += [] if accuracy is None else [table.accuracy >= accuracy]
    good = table.time_s[np.logical_and.reduce(reached)] if reached else ()
    if not len(good):
        return None
    joined = events.time_s[: (events.event == "push").argmax()]  # the last of them started the training
    return float(good.min() - joined.max())


def staleness(folder: Path) -> dict:
    """Mean, 95th percentile and maximum over the applied updates."""
    table = results.updates(folder)
    values = table.staleness[table.applied == 1]
    if not len(values):
        return dict.fromkeys(("staleness_mean", "staleness_p95", "staleness_max"))
    return {
        "staleness_mean": float(values.mean()),
        "staleness_p95": float(values.quantile(0.95)),
        "staleness_max": int(values.max()),
    }
