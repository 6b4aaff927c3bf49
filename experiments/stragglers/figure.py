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
    return ordered[0], ordered[(len(ordered) - 1) // 2 if len(ordered) % 2 else len(ordered) // 2], ordered[-1]


def mark(axes, x: float, times: pd.Series, budget: float, name: str, open_: bool = False) -> float:
    """Draw the spread at ``x``: an arrow out of the top, and a pale marker at the budget, for what was not reached."""
    (low, middle, high), (_, colour, marker) = spread(times), METHODS[name]
    reached = np.isfinite(middle)
    y = middle if reached else budget
    if np.isfinite(low):
        axes.plot([x, x], [low, min(high, budget)], color=colour, linewidth=1.3, alpha=0.8, zorder=2)
    if not np.isfinite(high):
        axes.annotate("", (x, budget * 1.22), (x, budget * 0.98), arrowprops={"arrowstyle": "->", "color": colour})
    face = "white" if open_ or not reached else colour
    axes.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=7, zorder=3)
    return y


def panel(axes, runs: pd.DataFrame) -> None:
    """Time to the target against the number of workers, for one timing."""
    sizes = sorted(runs.workers.unique())
    budgets = [runs.budget[runs.workers == size].iloc[0] for size in sizes]
    for offset, name in zip(np.linspace(-0.16, 0.16, len(METHODS)), METHODS, strict=True):
        mine = runs[runs.method == name]
        places = [position + offset for position, size in enumerate(sizes) if (mine.workers == size).any()]
        here = [(size, budget) for size, budget in zip(sizes, budgets, strict=True) if (mine.workers == size).any()]
        ys = [
            mark(axes, x, mine.time[mine.workers == size], budget, name)
            for x, (size, budget) in zip(places, here, strict=True)
        ]
        axes.plot(places, ys, color=METHODS[name][1], linewidth=1, alpha=0.45, zorder=1)
    for position, budget in enumerate(budgets):
        axes.plot([position - 0.3, position + 0.3], [budget] * 2, ":", color="#666666", linewidth=1.2)
    axes.set_xticks(range(len(sizes)), [f"{size}" for size in sizes])
    axes.set(yscale="log", xlabel="workers", xlim=(-0.45, len(sizes) - 0.55))
    axes.grid(axis="y", which="both", alpha=0.2)


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
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    legend(figure)
    save(figure, "stragglers")


def reality(virtual: pd.DataFrame, real: pd.DataFrame) -> None:
    """With 4 workers: filled in virtual time, open on real processes."""
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.6), sharey=True, layout="constrained")
    for axes, (timing, title) in zip(panels, TIMINGS.items(), strict=True):
        for position, name in enumerate(METHODS):
            for runs, shift, open_ in ((virtual, -0.14, False), (real, 0.14, True)):
                mine = runs[(runs.timing == timing) & (runs.method == name) & (runs.workers == 4)]
                if len(mine):
                    mark(axes, position + shift, mine.time, mine.budget.iloc[0], name, open_)
        axes.axhline(virtual.budget[virtual.workers == 4].iloc[0], linestyle=":", color="#666666")
        axes.set_xticks(
            range(len(METHODS)), [label.partition(",")[0] for label, *_ in METHODS.values()], rotation=35, ha="right"
        )
        axes.set_title(title, fontsize=11)
        axes.grid(axis="y", alpha=0.2)
    panels[0].set_ylabel("time to a held-out loss of 0.25\n[mean times of a batch]")
    save(figure, "reality")


def save(figure, name: str) -> None:
    for kind in ("png", "svg"):
        figure.savefig(HERE / f"{name}.{kind}", dpi=110)


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
    columns = [(timing, size) for timing in TIMINGS for size in sorted(runs.workers.unique())]
    lines = [
        "| method | " + " | ".join(f"{timing}, {size}" for timing, size in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, (label, *_) in METHODS.items():
        cells = []
        for timing, size in columns:
            mine = runs[(runs.method == name) & (runs.timing == timing) & (runs.workers == size)]
            cells.append(f"{cell(mine)}; lr {mine.lr.iloc[0]:g}" if len(mine) else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
