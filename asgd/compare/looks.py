"""Names of groups of runs, and looks that do not rest on colour alone."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")  # Okabe and Ito
DASHES = ("-", "--", ":", "-.", (0, (8, 2)))
MARKERS = ("o", "s", "D", "^", "x", "P", "*", "v")
MANY = 24  # groups are drawn at most


@dataclass(frozen=True)
class Group:
    """Runs that are drawn alike; ``name`` says what they have in common."""

    name: str
    runs: pd.DataFrame
    colour: str
    dash: object
    marker: str

    @property
    def complete(self) -> pd.DataFrame:
        """Those that came to the end of their budget: means are made of these."""
        return self.runs[self.runs.state == "budget"]

    @property
    def counted(self) -> str:
        """``n=2, 1 diverged``"""
        others = self.runs.state[self.runs.state != "budget"].value_counts()
        return ", ".join([f"n={len(self.complete)}", *(f"{count} {state}" for state, count in others.items())])


def groups(runs: pd.DataFrame, by: list[str] | None, keys: list[str]) -> list[Group]:
    """The runs by the values of the options ``by``, in their order; None: each run by itself, told by ``keys``."""
    names = runs.apply(name, axis=1, keys=keys if by is None else by) if len(runs) else runs.folder
    if by is None:
        names = names.where(~names.duplicated(keep=False), names + " (" + runs.folder + ")")
    tables = [table for _, table in runs.groupby(names, sort=False)]
    tables.sort(key=lambda table: order(table, keys if by is None else by))
    return [Group(names[table.index[0]], table, *look(i)) for i, table in enumerate(tables)]


def look(i: int) -> tuple[str, object, str]:
    """Colour, dash and marker, all different from those before as long as there are any."""
    return COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]


def name(run: pd.Series, keys: list[str]) -> str:
    """``workers=4, lr=0.1``"""
    return ", ".join(f"{short(key, keys)}={shown(run[key])}" for key in keys) or "all runs"


def short(key: str, keys: list[str]) -> str:
    """``optimizer.lr`` -> ``lr``, unless another key ends like that."""
    last = key.rpartition(".")[2]
    return key if sum(each.rpartition(".")[2] == last for each in keys) > 1 else last


def shown(value) -> str:
    """A value as it was typed: whole numbers as such, nothing as a dash."""
    if value is None or value != value:
        return "–"
    whole = isinstance(value, float) and abs(value) < 1e15 and value == int(value)
    return str(int(value)) if whole else str(value)


def order(runs: pd.DataFrame, keys: list[str]) -> list:
    """A key by which groups are sorted: by the values of the options."""
    return [in_order(runs[key].iloc[0]) for key in keys]


def in_order(value) -> tuple:
    """A key that sorts numbers as such and before words."""
    is_number = isinstance(value, (int, float, np.number)) and value == value
    return (0, float(value), "") if is_number else (1, 0.0, str(value))
