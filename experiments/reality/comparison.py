"""What is read from the folders of the runs, and how far one is from another."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from asgd import results
from asgd.timing import Trace


def pushes(run: Path) -> pd.DataFrame:
    return results.updates(run).query("event == 'push' and applied == 1").reset_index(drop=True)


def evaluation(run: Path, seconds: float) -> pd.DataFrame:
    """The evaluations; a real run makes the last one a little after its end."""
    curve, start = results.evaluation(run), results.start_of(results.updates(run))
    return curve.assign(time_s=np.minimum(curve.time_s - start, seconds))


def parts(run: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each worker the seconds of its jobs: what it computed, and what the exchange took besides."""
    rounds, jobs = results.metrics(run).groupby("worker").compute_s, Trace(run).jobs
    pairs = [zip(rounds.get_group(worker), jobs[worker], strict=False) for worker in sorted(jobs)]
    computing, whole = zip(*(np.array(list(each)).T for each in pairs), strict=True)
    return list(computing), [a - b for a, b in zip(whole, computing, strict=True)]


def service_seconds(run: Path) -> float:
    """The time between two arrivals when the second was waiting already: the 5 % quantile of all."""
    return results.updates(run).query("event == 'push'").time_s.diff().quantile(0.05)


def compare(truth: Path, guess: Path, seconds: float) -> dict:
    """How far ``guess`` is from ``truth``; both lasted so many ``seconds``."""
    one, two = pushes(truth), pushes(guess)
    return {
        "throughput_error": two.version.max() / one.version.max() - 1,
        "throughput_error_size": abs(two.version.max() / one.version.max() - 1),
        "staleness_distance": np.abs(shares(one.staleness) - shares(two.staleness)).sum() / 2,
        "staleness_mean_error": two.staleness.mean() - one.staleness.mean(),
        "staleness_p95_error": two.staleness.quantile(0.95) - one.staleness.quantile(0.95),
        "loss_gap": loss_gap(evaluation(truth, seconds), evaluation(guess, seconds), seconds),
        "equal_arrivals": equal_arrivals(one, two) / len(one),
    }


def shares(staleness: pd.Series, most: int = 100) -> np.ndarray:
    return np.bincount(staleness.astype(int), minlength=most) / len(staleness)


def loss_gap(one: pd.DataFrame, two: pd.DataFrame, seconds: float) -> float:
    """The mean of |ln(loss / loss)| at 17 equal times; 0.1 is about 10 %."""
    times = np.linspace(0.2, 1, 17) * seconds
    first, second = (np.interp(times, curve.time_s, np.log(curve.loss)) for curve in (one, two))
    return np.abs(first - second).mean()


def equal_arrivals(one: pd.DataFrame, two: pd.DataFrame) -> int:
    """How many updates come in the same order, by the same workers and with the same staleness."""
    both = one[["worker", "staleness"]].join(two[["worker", "staleness"]], rsuffix="_two")
    same = (both.worker == both.worker_two) & (both.staleness == both.staleness_two)
    return same.cumprod().sum()


def facts(run: Path) -> dict:
    """What was measured in a real run: rates, milliseconds, and whether durations know of each other."""
    (computing, exchange), updates, start = parts(run), pushes(run), results.start_of(results.updates(run))
    whole = [a + b for a, b in zip(computing, exchange, strict=True)]
    return {
        "updates_per_s": len(updates.version.unique()) / (updates.time_s.max() - start),
        "compute_ms": 1e3 * np.concatenate(computing).mean(),
        "exchange_ms": 1e3 * np.concatenate(exchange).mean(),
        "service_ms": 1e3 * service_seconds(run),
        "variation": np.mean([each.std() / each.mean() for each in whole]),
        "next_round_correlation": np.mean([np.corrcoef(each[:-1], each[1:])[0, 1] for each in whole]),
        "same_round_correlation": same_round(whole),
        "slowest_to_mean": slowest(whole),
        "staleness_mean": updates.staleness.mean(),
        "staleness_p95": updates.staleness.quantile(0.95),
    }


def table(rounds: list[np.ndarray]) -> np.ndarray:
    """[workers, rounds that all have done]"""
    return np.array([each[: min(map(len, rounds))] for each in rounds])


def same_round(rounds: list[np.ndarray]) -> float:
    """Of two workers' durations of the same round, the mean correlation over all pairs."""
    return np.corrcoef(table(rounds))[np.triu_indices(len(rounds), 1)].mean()


def slowest(rounds: list[np.ndarray]) -> float:
    """What a barrier costs: the mean over the rounds of the slowest worker's duration, in mean durations."""
    return table(rounds).max(axis=0).mean() / table(rounds).mean()


def interval(values: pd.Series) -> str:
    """Mean and 95 % confidence interval (Student)."""
    half = student.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values))
    return f"{values.mean():.2g} ± {half:.2g}" if half else f"{values.mean():.3g}"


def markdown(rows: pd.DataFrame, by: list[str]) -> str:
    """Means and intervals over the seeds."""
    summary = rows.drop(columns="seed").groupby(by, sort=False).agg(interval).reset_index()
    lines = [summary.columns, ["---"] * len(summary.columns), *summary.astype(str).values]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
