"""The words of the command line, before Hydra reads them: patterns are quoted, and a resumed run's options added."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asgd import checkpoints
from asgd.records import flatten
from asgd.words import closest

# What a run cannot change half-way
SAME = ("model", "topology", "optimizer", "wire", "worker", "compute", "buffers", "seed")
AGAIN = "sweep.resume="
MAY_CHANGE = (
    "hydra/launcher",
    "hydra.launcher",
    "hydra.job",
    "hydra.verbose",
    "--config-dir",
)  # of a sweep that goes on
PLUGINS = {  # launchers and sweepers: the package below hydra_plugins, and the extra that brings it
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_submitit_launcher", "submitit"),
    "submitit_slurm": ("hydra_submitit_launcher", "submitit"),
    "slurm": ("hydra_submitit_launcher", "submitit"),
    "ray": ("hydra_ray_launcher", "ray"),
    "optuna": ("hydra_optuna_sweeper", "optuna"),
    "search": ("hydra_optuna_sweeper", "optuna"),
}
PATTERN = re.compile(r"""(?P<key>[^=]+)=(?P<value>[^"'\[{][^"']*(?<!\$)\{[^{}$]*(\.\.|,)[^{}$]*\}[^"']*)""")


def prepare(words: list[str]) -> list[str]:
    """What Hydra is given for what the user typed."""
    words = continued(resumed([quoted(word) for word in words]))
    check_plugins(words)
    return flags_first(words)


def flags_first(words: list[str]) -> list[str]:
    """Hydra's own parser takes the options in one row, so its flags, such as ``--config-dir own``, come before them."""
    options = [word for word in words if word.startswith("~") or ("=" in word and not word.startswith("-"))]
    return [word for word in words if word not in options] + options


def quoted(word: str) -> str:
    """``url=x-{000..007}.tar`` -> ``url="x-{000..007}.tar"``: Hydra's grammar has another use for bare braces."""
    match = PATTERN.fullmatch(word)
    return f'{match["key"]}="{match["value"]}"' if match else word


def resumed(words: list[str]) -> list[str]:
    """With ``resume=<run folder>``: also the options that run was started with, where the words give none.

    Hydra's own record of them stays as it is.
    """
    folder = next((word.removeprefix("resume=") for word in words if word.startswith("resume=")), None)
    if folder in (None, "null") or not (Path(folder) / "parameters.json").exists():
        return words
    given = {key(word) for word in words}
    before = json.loads((Path(folder) / "parameters.json").read_text())["overrides"]
    return [word for word in before if key(word) not in given] + words + ["hydra.output_subdir=null"]


def continued(words: list[str]) -> list[str]:
    """With ``sweep.resume=<folder of a sweep>``: the words that it was started with. ValueError if these contradict."""
    folder = next((word.removeprefix(AGAIN) for word in words if word.startswith(AGAIN)), None)
    if folder is None:
        return words
    before = recorded_sweep(Path(folder))
    given = [word for word in words if word not in ("-m", "--multirun") and not word.startswith(AGAIN)]
    for word in given:
        if word not in before and not key(word).startswith(MAY_CHANGE):
            was = [other for other in before if key(other) == key(word)]
            raise ValueError(
                f"sweep.resume={folder}: that sweep was started {f'with {was[0]}' if was else f'without {key(word)}'}, "
                f"this command says {word}; leave it out to go on with the sweep as it was"
            )
    own = {"hydra.sweep.dir", *map(key, given)}
    return ["--multirun", *(word for word in before if key(word) not in own), *given, f"hydra.sweep.dir={folder}"]


def recorded_sweep(folder: Path) -> list[str]:
    try:
        return json.loads((folder / "sweep.json").read_text())["words"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"sweep.resume={folder}: no sweep there ({error})") from None


def check_plugins(words: list[str]) -> None:
    """ValueError for a launcher or sweeper whose package is not installed."""
    for word in words:
        name, _, choice = word.partition("=")
        if name not in ("hydra/launcher", "hydra/sweeper") or choice not in PLUGINS:
            continue
        package, extra = PLUGINS[choice]
        if find_spec(f"hydra_plugins.{package}") is None:
            raise ValueError(f"{word}: its package is not installed; pip install asgd[{extra}]")


def check_added(words: list[str], base: Path) -> None:
    """ValueError for an option that ``+`` adds to a section of the file ``base`` whose options are all in there.

    Whole new sections are the user's own, for other options to refer to.
    """
    sections = OmegaConf.load(base)
    for name in [key(word) for word in words if word.startswith("+")]:
        section, _, option = name.partition(".")
        known = sections.get(section) if option and section != "hydra" else None
        if isinstance(known, DictConfig) and option not in known:
            raise ValueError(f"{name}: no such option{closest(option, list(known))}; {section} has {', '.join(known)}")


def key(override: str) -> str:
    """``+model.width=3`` -> ``model.width``"""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def spelt(message: str, config: dict) -> str:
    """``slack=-1: ...`` of a constructor -> ``topology.slack=-1: ...``, as the option is typed.

    The option is the one of that name and value; the outermost, which the others take theirs from. Without such a one,
    and with several, the message stays as it is.
    """
    options = [name for name, value in flatten(config).items() if message.startswith(f"{last(name)}={value}: ")]
    outermost = min((name.count(".") for name in options), default=0)
    found = [name for name in options if name.count(".") == outermost]
    return message.replace(last(found[0]), found[0], 1) if len(found) == 1 else message


def last(option: str) -> str:
    """``topology.slack`` -> ``slack``"""
    return option.rpartition(".")[2]


def check_resumable(config: dict, folder: Path) -> None:
    """ValueError when there is no checkpoint, or it belongs to another model or method, or ``folder`` is another."""
    if folder.resolve() != Path(config["resume"]).resolve():
        raise ValueError(
            f"resume={config['resume']}: that run goes on in its own folder, not in {folder}; "
            "leave out hydra.run.dir, and -m"
        )
    state = checkpoints.load(folder)
    before = state["config"]
    for part in SAME:
        if before.get(part, config[part]) != config[part]:
            raise ValueError(
                f"resume={folder}: that run has {part} {before[part]}, this command {config[part]}; "
                "leave the option out to go on with the run as it was"
            )
    used = {"updates": state["server"]["parameters"]["version"], "samples": state["server"]["samples"]}
    for name, count in used.items():
        limit = config["budget"][name]
        if limit is not None and limit < count:
            raise ValueError(f"budget.{name}={limit}: the run in {folder} has had {count} already; give more")


WATCHING = ("tracker", "track", "tensorboard", "trace")
DEVICES = ("device", "server")
FREE = ("engine", "hydra", *DEVICES, *WATCHING)  # what a replay may choose


def adopted(config: dict, overrides: list[str]) -> dict:
    """The configuration of a replay is that of the run it repeats. ValueError when it cannot be had, or contradicts."""
    source = config["engine"].get("source")
    if source is None:
        return config
    if others := [word for word in overrides if key(word).partition(".")[0] not in FREE]:
        raise ValueError(f"engine=replay takes its options from {source}; leave out {' '.join(others)}")
    recorded = recorded_run(Path(source))
    own = {name: config[name] for name in ("engine", *DEVICES, *WATCHING)}
    return recorded | own | {"role": "all", "rank": None, "resume": None}


def recorded_run(source: Path) -> dict:
    """The configuration of a run that has been recorded; its thread count, and no limit in seconds."""
    try:
        config = json.loads((source / "parameters.json").read_text())["config"]
        threads = json.loads((source / "stats/ps/parameters.json").read_text())["threads"]
        events = len((source / "stats/ps/updates.csv").read_bytes().splitlines())
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"engine.source={source}: no recorded run there ({error})") from error
    limits = config["budget"] | {"seconds": None}
    if not any(limits.values()):
        limits["updates"] = events  # more than there can be
    return config | {"threads": threads, "budget": limits}
