"""In which options runs differ: what a sweep is about."""

import json

import pandas as pd

from asgd.records import SUMMARY

FACTS = "folder state overrides git_commit git_dirty parameter_count buffer_count bytes_per_update".split()
PLACES = ("role", "rank", "resume")  # options that say where, not what


def varied(runs: pd.DataFrame) -> list[str]:
    """The columns of options in which the runs differ, the fewest that tell; ``runs`` as ``load`` gives them.

    First what was typed or swept, in that order, then groups, then single options. What follows from others is left
    out: ``topology.policy.slack`` where ``topology`` was chosen, ``dataset.seed`` where ``seed`` was. That is seen from
    the values alone: of two options that always changed together, both count only if both were typed.
    """
    swept = typed(runs)
    columns = dict.fromkeys([*swept, *(name for name in runs.columns if is_option(name))])
    codes = pd.DataFrame({name: pd.factorize(runs[name].map(text))[0] for name in columns}, index=runs.index)
    kept: list[str] = []
    for name in columns:
        if codes[name].nunique() > 1 and (name in swept or not explained(codes[name], codes[kept])):
            kept.append(name)
    return kept


def typed(runs: pd.DataFrame) -> list[str]:
    """The columns that were options on any run's command line, in that order."""
    words = [word for words in runs.get("overrides", []) if isinstance(words, list) for word in words]
    names = dict.fromkeys(word.lstrip("+~").partition("=")[0].partition("@")[0] for word in words)
    known = (f"config.{name}" if name in SUMMARY else name for name in names)
    return [name for name in known if name in runs.columns and is_option(name)]


def is_option(column: str) -> bool:
    return column not in (*FACTS, *PLACES, *SUMMARY) and not column.startswith("versions.")


def explained(code: pd.Series, kept: pd.DataFrame) -> bool:
    """Whether one of the kept columns decides this one, or all of them but the seed do together."""
    sets = [[name] for name in kept] + [[name for name in kept if name != "seed"]]
    return any(decides(kept[names], code) for names in sets if names)


def decides(causes: pd.DataFrame, code: pd.Series) -> bool:
    """Whether runs that agree in the causes agree in ``code``."""
    return len(causes.assign(code=code).drop_duplicates()) == len(causes.drop_duplicates())


def text(value) -> str:
    """A value that can be compared, lists as well; nothing is the empty text."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=str)
    return "" if value is None or value != value else str(value)
