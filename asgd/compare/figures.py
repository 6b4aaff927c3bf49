"""Figures for papers: PNG, SVG and PDF by matplotlib. They show what the page shows when it is opened."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asgd import results
from asgd.compare import choices
from asgd.compare.collect import UNFINISHED, Comparison
from asgd.compare.looks import MANY, Group, groups, in_order, shown
from asgd.records import is_higher_better

matplotlib.use("agg")  # no window, wherever this runs

FORMATS = ("png", "svg", "pdf")
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ddd",
    "font.size": 9,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
}
PARTS = {  # of a worker's time: column of ``Comparison.work``, what it is, colour and hatch
    "computing": ("computing", "#56B4E9", ""),
    "data": ("waiting for data", "#E69F00", ".."),
    "waiting": ("waiting for the server", "#D55E00", "//"),
}
ROWS = 32


def write(comparison: Comparison, folder: Path) -> None:
    """Every figure for which there is something to draw, in three formats. One of an earlier comparison is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = chosen(comparison)
    with plt.rc_context(STYLE):
        for draw in (curves, target, staleness, work, throughput, heat_map):
            figure = draw(comparison, drawn)
            for path in (folder / f"{draw.__name__}.{suffix}" for suffix in FORMATS):
                figure.savefig(path) if figure else path.unlink(missing_ok=True)
            plt.close(figure)


def chosen(comparison: Comparison) -> list[Group]:
    """The groups; of very many those with the best runs."""
    found = groups(comparison.runs, comparison.group, comparison.keys)
    best = sorted(found, key=lambda group: group.runs.index.min())[:MANY]  # the runs are sorted
    return [group for group in found if any(group is each for each in best)]


def legend(figure: Figure, drawn: list[Group]) -> None:
    lines = [plt.Line2D([], [], color=each.colour, linestyle=each.dash, marker=each.marker) for each in drawn]
    names = [f"{each.name} ({each.counted})" for each in drawn]
    figure.legend(lines, names, loc="outside lower center", ncols=min(3, len(names)), fontsize="small")


def curves(comparison: Comparison, drawn: list[Group]) -> Figure | None:
    """Loss and accuracy against updates, samples and seconds; means with 95 % intervals, others by themselves."""
    rows = [name for name in ("loss", "accuracy") if comparison.curves[name].notna().any()]
    if not rows:
        return None
    figure, places = plt.subplots(len(rows), 3, figsize=(9, 2.6 * len(rows) + 0.6), squeeze=False, sharey="row")
    for y, line in zip(rows, places, strict=True):
        for x, axes in zip(results.AXES[::-1], line, strict=True):
            for group in drawn:
                curve(axes, comparison.curves, group, x, y)
            axes.set(xlabel=comparison.unit if x == "seconds" else x)
            axes.locator_params(axis="x", nbins=4)
        line[0].set_ylabel(f"validation {y}")
    legend(figure, drawn)
    return figure


def curve(axes: Axes, curves: pd.DataFrame, group: Group, x: str, y: str) -> None:
    whole = results.mean(curves[curves.folder.isin(group.complete.folder)], [], x, y)
    axes.plot(whole[x], whole[y], color=group.colour, linestyle=group.dash, marker=group.marker, markevery=0.1)
    axes.fill_between(whole[x], whole.low, whole.high, color=group.colour, alpha=0.15, linewidth=0)
    alone = group.runs if whole.empty else group.runs[group.runs.state != "budget"]
    parts = curves[curves.folder.isin(alone.folder)].dropna(subset=[x, y])
    for _, table in parts.groupby("folder"):
        axes.plot(table[x], table[y], color=group.colour, linestyle=group.dash, linewidth=0.7)
    ended = alone.folder[alone.state != "budget"]
    last = parts[parts.folder.isin(ended)].groupby("folder").last()
    axes.plot(last[x], last[y], linestyle="", color=group.colour, marker="x", markersize=6)


def target(comparison: Comparison, drawn: list[Group]) -> Figure | None:
    """Updates, samples and seconds to the target: each run, the mean of those that reached it, and its interval."""
    if comparison.target is None:
        return None
    times = results.reached(comparison.curves, comparison.target)
    figure, places = plt.subplots(1, 3, figsize=(9, 0.9 + 0.32 * len(drawn)), sharey=True)
    for x, axes in zip(results.AXES[::-1], places, strict=True):
        for row, group in enumerate(drawn):
            found = times[x].reindex(group.runs.folder).dropna()
            middle, half, _ = results.interval(found)
            axes.barh(row, middle, color=group.colour, alpha=0.35, xerr=None if half != half else half, ecolor="black")
            axes.plot(found, [row] * len(found), linestyle="", color=group.colour, marker=group.marker)
        axes.set(xlabel=f"{comparison.unit if x == 'seconds' else x} to {comparison.target:g}", xlim=(0, None))
        axes.locator_params(axis="x", nbins=4)
    reached = [times.updates.reindex(each.runs.folder).notna().sum() for each in drawn]
    names = [f"{each.name}\n{n} of {len(each.runs)}" for each, n in zip(drawn, reached, strict=True)]
    places[0].set_yticks(range(len(drawn)), names, fontsize="small")
    places[0].invert_yaxis()
    return figure


def staleness(comparison: Comparison, drawn: list[Group]) -> Figure | None:
    """The share of the applied updates of each staleness."""
    if not len(comparison.staleness):
        return None
    figure, axes = plt.subplots(figsize=(5, 3.4))
    for group in drawn:
        counts = (
            comparison.staleness[comparison.staleness.folder.isin(group.runs.folder)].groupby("staleness").updates.sum()
        )
        shares = 100 * counts / counts.sum()
        axes.plot(shares.index, shares, color=group.colour, linestyle=group.dash, marker=group.marker, markevery=0.05)
    axes.set(xlabel="staleness, versions", ylabel="% of updates", ylim=(0, None))
    legend(figure, drawn)
    return figure


def work(comparison: Comparison, drawn: list[Group]) -> Figure | None:
    """Where each worker's time went; all workers of a group together where those would be many."""
    tables = [each for each in (shares(comparison.work, group) for group in drawn) if len(each)]
    if sum(map(len, tables)) > ROWS:
        tables = [table.mean().to_frame(table.index[0].rpartition(" ·")[0]).T for table in tables]
    if not tables:
        return None
    rows = pd.concat(tables).iloc[::-1]
    figure, axes = plt.subplots(figsize=(6, 1 + 0.24 * len(rows)))
    left = np.zeros(len(rows))
    for part, (words, colour, hatch) in PARTS.items():
        axes.barh(rows.index, rows[part], left=left, color=colour, hatch=hatch, edgecolor="white", label=words)
        left += rows[part].to_numpy()
    axes.set(xlabel="% of the time", xlim=(0, 100))
    axes.grid(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    return figure


def shares(work: pd.DataFrame, group: Group) -> pd.DataFrame:
    """Per cent of each worker's time, over the runs of the group; one row a worker."""
    seconds = work[work.folder.isin(group.runs.folder)].groupby("worker")[list(PARTS)].sum()
    seconds = seconds[seconds.sum(axis=1) > 0]
    seconds.index = [f"{group.name} · worker {worker}" for worker in seconds.index]
    return seconds.div(seconds.sum(axis=1), axis=0) * 100


def throughput(comparison: Comparison, _) -> Figure | None:
    """Samples per second against workers, and what would be proportional to them."""
    by = [key for key in comparison.group or [] if key not in ("workers", "seed")]
    if comparison.unit == choices.MIXED and "engine" in comparison.keys:
        by = list(dict.fromkeys([*by, "engine"]))  # virtual and real seconds are never averaged
    ended = comparison.runs.query("state == 'budget' and samples_per_s > 0")
    if "workers" not in ended or not len(ended) or "auto" in ended.workers.values:
        return None
    figure, axes = plt.subplots(figsize=(5, 3.4))
    drawn = groups(ended, by, comparison.keys)
    tables = [rates(group.runs) for group in drawn]
    for group, table in zip(drawn, tables, strict=True):
        look = {"color": group.colour, "linestyle": group.dash, "marker": group.marker}
        axes.errorbar(table.index, table["mean"], table.half, capsize=3, label=group.name, **look)
    counts = sorted(ended.workers.unique())
    start = max(table["mean"].get(counts[0], 0.0) for table in tables)
    axes.plot(counts, start * np.array(counts) / counts[0], ":", color="#777", label="proportional to workers")
    second = "virtual second" if comparison.unit == "virtual seconds" else "second"
    axes.set(xlabel="workers", ylabel=f"samples per {second}", ylim=(0, None), xticks=counts)
    axes.legend(fontsize="small")
    return figure


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Samples per second by the number of workers: ``mean``, ``half`` of its 95 % interval, ``n``."""
    rows = {workers: results.interval(table.samples_per_s) for workers, table in runs.groupby("workers")}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "half", "n"])


def heat_map(comparison: Comparison, _) -> Figure | None:
    """The objective over the first two options in which the runs differ, the mean over all the others."""
    keys, objective = choices.settings(comparison.runs, comparison.keys)[:2], comparison.objective
    judged = comparison.runs[~comparison.runs.state.isin(UNFINISHED)].dropna(subset=[objective])
    if len(keys) < 2 or not len(judged):
        return None
    mean, count = (grid(judged, keys, objective, how) for how in ("mean", "count"))
    figure, axes = plt.subplots(figsize=(2.2 + 0.9 * mean.shape[1], 1.3 + 0.5 * mean.shape[0]))
    colours = plt.get_cmap("cividis" if is_higher_better(objective) else "cividis_r")
    drawn = axes.imshow(mean, cmap=colours, aspect="auto")
    for (row, column), value in np.ndenumerate(mean.to_numpy()):
        if value == value:
            ink = "white" if sum(drawn.to_rgba(value)[:3]) < 1.5 else "black"
            axes.text(
                column, row, f"{value:.4g}\nn={count.iat[row, column]:.0f}", ha="center", va="center", color=ink, size=8
            )
    axes.set(xlabel=keys[0], ylabel=keys[1])
    axes.set_xticks(range(mean.shape[1]), mean.columns)
    axes.set_yticks(range(mean.shape[0]), mean.index)
    axes.grid(False)
    figure.colorbar(drawn, label=objective)
    return figure


def grid(runs: pd.DataFrame, keys: list[str], figure: str, how: str) -> pd.DataFrame:
    """``figure`` with the values of the first key across and of the second down, numbers in their order."""
    across, down = keys
    ordered = [dict.fromkeys(map(shown, sorted(runs[key].unique(), key=in_order))) for key in keys]
    table = runs.groupby([runs[down].map(shown), runs[across].map(shown)])[figure].agg(how).unstack()
    return table.reindex(index=list(ordered[1]), columns=list(ordered[0]))
