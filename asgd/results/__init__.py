"""Reading run folders, as pandas tables. Imports no training code: notebooks and reports need nothing else.

    from asgd import results

    runs = results.load("outputs/sweeps")  # one row per run: options, figures of the summary, state
    results.varied(runs)  # the options in which they differ
    results.curves(runs)  # the evaluations of all, with the run's folder in the first column
    results.updates(runs.folder[0])  # a table of one run

Killed, half-finished and running runs are read as far as they have come. See docs/results.md.
"""

from asgd.results.curves import AXES, curves, interval, mean, reached
from asgd.results.folders import load, overlaps, parameters, summary
from asgd.results.jobs import jobs, start, start_of
from asgd.results.tables import evaluation, metrics, system_stats, updates
from asgd.results.variation import varied

__all__ = [
    "AXES",
    "curves",
    "evaluation",
    "interval",
    "jobs",
    "load",
    "mean",
    "metrics",
    "overlaps",
    "parameters",
    "reached",
    "start",
    "start_of",
    "summary",
    "system_stats",
    "updates",
    "varied",
]
