"""The figures and tables of this folder, from the folders of the sweeps: ``figure.py VIRTUAL... [--real REAL]``."""

import argparse
from math import inf
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from asgd import results

METHODS = {  # name: label, colour by Okabe and Ito, which all can tell apart, and marker
    "sync": ("synchronous", "#000000", "o"),
    "backup": ("backup workers", "#E69F00", "s"),
    "local_sgd": ("local SGD, 8 steps", "#009E73", "D"),
    "ssp": ("SSP, slack 3", "#56B4E9", "^"),
    "async": ("asynchronous", "#D55E00", "v"),
    "dc_asgd": ("DC-ASGD", "#CC79A7", "P"),
}
TIMINGS = {
    "alike": "workers that are alike",
    "random": "any batch may be slow (exponential)",
    "one_slow": "one worker ten times slower",
}
HERE = Path(__file__).parent


def load(folders: list[str]) -> pd.DataFrame:
    """One row for each reported run: method, timing, workers, and the mean times of a batch until the target."""
    runs = pd.concat([results.load(path) for folder in folders for path in sorted(Path(folder).glob("**/reported"))])
    runs = runs[runs.ended.isin(["budget", "diverged"])]
    words = [dict(word.split("=") for word in results.parameters(folder)["overrides"]) for folder in runs.folder]
    unit = runs.job_seconds.to_numpy()
    return pd.DataFrame(
        {
            "method": [each["+experiment/stragglers"] for each in words],
            "timing": [each["+experiment/stragglers/timing"] for each in words],
            "workers": runs.workers.to_numpy(),
            "lr": runs["optimizer.lr"].to_numpy(),
            "budget": runs["budget.seconds"].to_numpy() / unit,
            "time": runs.target_seconds.astype(float).fillna(inf).to_numpy() / unit,  # inf: not within the budget
            "staleness": runs.staleness_mean.to_numpy(),
        }
    )


def spread(times: pd.Series) -> tuple[float, float, float]:
    """Least, median and largest; infinite where runs ended before. Of five, these bound the median with 94 %."""
    ordered = np.sort(times)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def mark(axes, x: float, times: pd.Series, budget: float, name: str, hollow: bool) -> None:
    """Draw the spread at ``x``; an arrow at the budget stands for what was not reached within it."""
    (low, middle, high), (_, colour, marker) = spread(times), METHODS[name]
    if np.isfinite(low):
        axes.plot([x, x], [low, min(high, budget)], color=colour, linewidth=1.3, alpha=0.8, zorder=2)
    if not np.isfinite(high):
        axes.annotate("", (x, budget * 1.2), (x, budget * 0.98), arrowprops={"arrowstyle": "->", "color": colour})
    face = "white" if hollow else colour
    axes.plot(x, min(middle, budget), marker, color=colour, markerfacecolor=face, markersize=7, zorder=3)


def panel(axes, runs: pd.DataFrame) -> None:
    """Time to the target against the number of workers, for one timing."""
    sizes = sorted(runs.workers.unique())
    for offset, name in zip(np.linspace(-0.18, 0.18, len(METHODS)), METHODS, strict=True):
        mine = runs[runs.method == name]
        times = {
            place: mine.time[mine.workers == size] for place, size in enumerate(sizes) if size in set(mine.workers)
        }
        middles = {place: spread(each)[1] for place, each in times.items()}
        for place, each in times.items():
            budget = mine.budget[each.index[0]]
            mark(axes, place + offset, each, budget, name, hollow=not np.isfinite(middles[place]))
        line = [middles.get(place, inf) for place in range(len(sizes))]
        axes.plot(np.arange(len(sizes)) + offset, line, color=METHODS[name][1], linewidth=1, alpha=0.5, zorder=1)
    for place, size in enumerate(sizes):
        budget = runs.budget[runs.workers == size].iloc[0]
        axes.plot([place - 0.32, place + 0.32], [budget] * 2, ":", color="#666666", linewidth=1.2)
    axes.set_xticks(range(len(sizes)), [f"{size}" for size in sizes])
    axes.set(yscale="log", xlabel="workers", xlim=(-0.45, len(sizes) - 0.55))
    axes.grid(axis="y", alpha=0.2)


def legend(figure) -> None:
    handles = [plt.Line2D([], [], color=c, marker=m, linestyle="", label=label) for label, c, m in METHODS.values()]
    handles.append(plt.Line2D([], [], color="#666666", linestyle=":", label="end of the runs"))
    handles.append(
        plt.Line2D([], [], color="#666666", marker="o", markerfacecolor="white", linestyle="", label="not reached")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def headline(runs: pd.DataFrame) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 4.6), sharey=True, layout="constrained")
    for axes, (timing, title) in zip(panels, TIMINGS.items(), strict=True):
        panel(axes, runs[runs.timing == timing])
        axes.set_title(title, fontsize=11)
    panels[0].set_ylabel("time to a held-out loss of 0.25\n[mean times of a batch]")
    panels[0].set_ylim(runs.time.min() * 0.85, runs.budget.max() * 1.35)
    panels[0].yaxis.set_major_locator(plt.FixedLocator([25, 50, 75, 100, 150, 200, 300, 400, 600]))
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].yaxis.set_minor_locator(plt.NullLocator())
    legend(figure)
    figure.savefig(HERE / "stragglers.png", dpi=110)


def reality(virtual: pd.DataFrame, real: pd.DataFrame) -> None:
    """With 4 workers: filled in virtual time, hollow on real processes."""
    virtual = virtual[virtual.workers == 4]
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 4), sharey=True, layout="constrained")
    budget = virtual.budget.iloc[0]
    for axes, (timing, title) in zip(panels, TIMINGS.items(), strict=True):
        for place, name in enumerate(METHODS):
            for runs, shift, hollow in ((virtual, -0.15, False), (real, 0.15, True)):
                mine = runs[(runs.timing == timing) & (runs.method == name)]
                if len(mine):
                    mark(axes, place + shift, mine.time, budget, name, hollow)
        axes.axhline(budget, linestyle=":", color="#666666")
        labels = [label.partition(",")[0] for label, *_ in METHODS.values()]
        axes.set_xticks(range(len(METHODS)), labels, rotation=35, ha="right")
        axes.set(ylim=(0, budget * 1.25))
        axes.set_title(title, fontsize=11)
        axes.grid(axis="y", alpha=0.2)
    panels[0].set_ylabel("time to a held-out loss of 0.25\n[mean times of a batch]")
    faces = (("virtual time", "#666666"), ("real processes", "white"))
    handles = [
        plt.Line2D([], [], color="#666666", marker="o", markerfacecolor=face, linestyle="", label=label)
        for label, face in faces
    ]
    handles.append(plt.Line2D([], [], color="#666666", linestyle=":", label="end of the runs"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(HERE / "reality.png", dpi=110)


def cell(runs: pd.DataFrame) -> str:
    """Median (range), and how many runs reached the target where not all did."""
    low, middle, high = (
        f"{each:.0f}" if np.isfinite(each) else f"> {runs.budget.iloc[0]:.0f}" for each in spread(runs.time)
    )
    count = np.isfinite(runs.time).sum()
    if not count:
        return f"> {runs.budget.iloc[0]:.0f} (0 of {len(runs)})"
    return f"{middle} ({low} to {high})" + (f", {count} of {len(runs)}" if count < len(runs) else "")


def table(runs: pd.DataFrame) -> str:
    """For each timing the spread of the times, in mean times of a batch, and the rate that was tuned."""
    sizes, lines = sorted(runs.workers.unique()), []
    for timing, title in TIMINGS.items():
        lines += [
            "",
            f"| {title} | " + " | ".join(f"{size} workers" for size in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
        ]
        for name, (label, *_) in METHODS.items():
            mine = runs[(runs.method == name) & (runs.timing == timing)]
            cells = [entry(mine[mine.workers == size]) for size in sizes]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def entry(runs: pd.DataFrame) -> str:
    return f"{cell(runs)}; lr {runs.lr.iloc[0]:g}" if len(runs) else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("virtual", nargs="+")
    parser.add_argument("--real", nargs="*", default=[])
    words = parser.parse_args()
    virtual = load(words.virtual)
    headline(virtual)
    print(table(virtual))
    if words.real:
        real = load(words.real)
        reality(virtual, real)
        print(table(real))


if __name__ == "__main__":
    main()
