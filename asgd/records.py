"""Files of a run folder: CSV tables that are complete up to the last row, JSON that is written whole or not at all."""

import csv
import json
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

UPDATES = "time_s event worker round version staleness applied loss accuracy samples waiting bytes apply_s".split()
EVALUATION = "time_s version updates samples loss accuracy top_k_accuracy".split()
METRICS = "time_s epoch batch loss accuracy version compute_s wait_s samples data_s".split()
LEASES = "time_s event worker epoch shard first stop".split()
SYSTEM = "time_s cpu_percent memory_percent memory_mb net_sent_mb net_recv_mb".split()

SUMMARY = (
    "ended updates samples seconds updates_per_s samples_per_s final_loss final_accuracy best_loss best_accuracy "
    "staleness_mean staleness_p95 staleness_max applied dropped cancelled duplicate nonfinite late "
    "outdated oversized rolled_back skipped_samples failed_workers bytes_pushed bytes_pulled "
    "final_top_k_accuracy best_top_k_accuracy target_seconds"
).split()


HIGHER = ("accuracy", "_per_s", "updates", "samples", "applied")  # in the names of entries of which more is better


def is_higher_better(entry: str) -> bool:
    """Of an entry of the summary."""
    return any(word in entry for word in HIGHER) and not entry.startswith("skipped")


class Table:
    """A CSV file with a header; an existing one is continued. Each row is handed over at once.

    Floats are written so that they read back exactly; None is an empty field.
    """

    def __init__(self, path: Path, fields: list[str]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "a", newline="", buffering=1)  # noqa: SIM115 - lives as long as the table
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.write = self.writer.writerow  # one row, as any sequence
        if self.file.tell() == 0:
            self.write(fields)

    def row(self, *values) -> None:
        self.write(values)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def keep_rows(path: Path, keep: Callable[[int, dict], bool]) -> list[dict]:
    """Leave only the rows for which ``keep(number from 0, row)`` is true, and no torn last line. The other rows."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(line for line in file if line.endswith("\n"))
        fields = reader.fieldnames or []
        rows, others = [], []
        for number, row in enumerate(reader):
            (rows if keep(number, row) else others).append(row)
    with open(temporary := path.with_suffix(".tmp"), "w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
    return others


def keep_first(path: Path, rows: int) -> None:
    """Cut the table off after so many rows, in place: who has it open to add rows goes on behind them."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        kept = sum(len(line) for line in islice(file, rows + 1) if line.endswith(b"\n"))
    os.truncate(path, kept)


def write_json(path: Path, content) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(temporary, path)


def flatten(tree: dict, prefix: str = "") -> dict:
    """{'a': {'b': 1}} -> {'a.b': 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
