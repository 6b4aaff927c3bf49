"""The page: one HTML file with data, program and plots inside, which opens from disk without a network.

``content`` puts it together from the files here: ``page.html``, ``page.css``, and the scripts, which draw by plotly.js.
"""

import html
import json
import os
from pathlib import Path

from plotly.offline import get_plotlyjs
from scipy.special import stdtrit

from asgd.compare import choices
from asgd.compare.collect import Comparison
from asgd.records import is_higher_better

HERE = Path(__file__).parent
SCRIPTS = ("statistics.js", "looks.js", "curves.js", "figures.js", "table.js", "main.js")
POINTS = 200  # of a curve, at most
FIGURES = "best_accuracy final_accuracy final_loss updates samples seconds samples_per_s staleness_mean".split()
DIGITS = 6
WHOLE = 1e15  # above, numbers are written with an exponent


def content(comparison: Comparison, x: str, out: Path) -> str:
    """The page's text; ``out`` is the folder it will lie in, from which it links to the runs."""
    count = len(comparison.runs)
    title = f"{count} runs compared" if count > 1 else "One run"
    parts = {
        "title": html.escape(title),
        "style": (HERE / "page.css").read_text(),
        "data": json.dumps(data(comparison, x, out), allow_nan=False).replace("</", "<\\/"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
        "program": "\n".join((HERE / name).read_text() for name in SCRIPTS),
    }
    page = (HERE / "page.html").read_text()
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


def data(comparison: Comparison, x: str, out: Path) -> dict:
    """All that the program in the page knows."""
    runs, keys = comparison.runs, list(dict.fromkeys([*comparison.keys, *(comparison.group or [])]))
    tables = {name: dict(list(getattr(comparison, name).groupby("folder"))) for name in ("curves", "staleness", "work")}
    return {
        "keys": keys,
        "settings": choices.settings(runs, keys),
        "group": comparison.group,
        "x": x,
        "unit": comparison.unit,
        "mixed": comparison.unit == choices.MIXED,
        "target": comparison.target,
        "objective": comparison.objective,
        "high": is_higher_better(comparison.objective),
        "figures": [name for name in FIGURES if name != comparison.objective],
        "common": common(comparison),
        "student": [number(stdtrit(degrees, 0.975)) for degrees in range(1, max(len(runs), 2))],
        "runs": [run(row, keys, tables, out, comparison.objective) for row in runs.to_dict("records")],
    }


def common(comparison: Comparison) -> dict:
    """The chosen file of each group that is the same in all runs."""
    runs = comparison.runs
    names = [name for name in ("dataset", "model", "topology", "engine", "timing", "optimizer") if name in runs]
    return {name: str(runs[name].iloc[0]) for name in names if runs[name].nunique(dropna=False) == 1}


def run(row: dict, keys: list[str], tables: dict, out: Path, objective: str) -> dict:
    """One run: its options, figures, and what is drawn of it."""
    folder = row["folder"]
    figures = {name: number(row.get(name)) for name in dict.fromkeys([objective, *FIGURES])}
    curve = thinned(tables["curves"].get(folder))
    staleness, work = tables["staleness"].get(folder), tables["work"].get(folder)
    return {
        "folder": folder,
        "link": os.path.relpath(folder, out),
        "state": row["state"],
        "workers": number(row.get("workers")),
        "options": {key: option(row.get(key)) for key in keys},
        "figures": figures,
        "curve": {name: columns(curve, name) for name in ("updates", "samples", "seconds", "loss", "accuracy")},
        "staleness": [] if staleness is None else staleness[["staleness", "updates"]].astype(int).values.tolist(),
        "work": [] if work is None else [
            [int(worker), *map(number, parts)]
            for worker, *parts in work[["worker", "computing", "data", "waiting"]].itertuples(index=False)
        ],
    }  # fmt: skip


def thinned(curve):
    """At most ``POINTS`` rows of a curve, with the first and the last."""
    if curve is None or len(curve) <= POINTS:
        return curve
    return curve.iloc[[round(place * (len(curve) - 1) / (POINTS - 1)) for place in range(POINTS)]]


def columns(curve, name: str) -> list:
    return [] if curve is None else [number(value) for value in curve[name]]


def number(value) -> float | int | None:
    """As short as can be seen; None for what is no finite number."""
    if value is None or not abs(value) < float("inf"):
        return None
    return int(value) if abs(value) < WHOLE and value == int(value) else float(f"{value:.{DIGITS}g}")


def option(value) -> str | float | int | bool | None:
    """A value that JSON has; lists and tables as text. A whole number stays one where other runs have none."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=str)
    if value != value:
        return None
    return int(value) if abs(value) < WHOLE and value == int(value) else float(value)
