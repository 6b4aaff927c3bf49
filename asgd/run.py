"""``python -m asgd.run``: the command line. Composes the configuration, checks it, runs it, reports it."""

# ruff: noqa: E402

import gc

gc.disable()  # modules are no garbage, and looking for some among them takes a fifth of the time to import them

import logging
import shutil
import sys
from importlib import import_module
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asgd import command_line, describe, environment, objectives, results, sweeps
from asgd.display import report
from asgd.job import Job, leads
from asgd.records import write_json
from asgd.trace import file as timeline

gc.enable()

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # installed, or in the checkout

HELD = "{} already holds a run; choose another hydra.run.dir, or continue it with resume="

environment.register()
sweeps.register()


class Failed(RuntimeError):
    """The run could not be started, or ended in an error."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> float | list[float] | None:
    """One run, or one node of a run; returns its objective (``asgd.objectives``)."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    try:
        return (run_of_sweep if swept() else run)(resolve(config), folder, overrides)
    except Failed as error:
        discard(folder)
        if swept():
            raise  # the sweep goes on with the next job
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if error.__cause__ else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def swept() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def resolve(config: DictConfig) -> dict:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise Failed(f"{error.full_key or 'the configuration'}: {str(error).partition(chr(10))[0]}") from error


def run_of_sweep(config: dict, folder: Path, overrides: list[str]) -> float | list[float] | None:
    """One run of a sweep.

    What an earlier life of the sweep has finished is not done again, and what it had begun goes on.
    """
    try:
        with sweeps.held(folder):
            if summary := sweeps.summary(config, folder):
                log.info("finished before: %s", folder)
                return objectives.value(summary, config["objective"])
            return run(sweeps.going_on(config, folder), folder, overrides)
    except ValueError as error:
        raise Failed(str(error)) from error


def run(config: dict, folder: Path, overrides: list[str]) -> float | list[float] | None:
    """``overrides`` are the words of the command line, which make the configuration."""
    job = prepare(config, folder, overrides)
    try:
        job.engine.run(job, folder)
    except (ValueError, TimeoutError) as error:
        raise Failed(str(error)) from error
    except (RuntimeError, ConnectionError) as error:
        log.debug("the run failed", exc_info=True)
        raise Failed(str(error)) from None
    return conclude(job, folder) if job.leads else None


def prepare(config: dict, folder: Path, overrides: list[str]) -> Job:
    """The checked job, and its parameters in the folder. Failed for every mistake that can be known now."""
    try:
        command_line.check_added(overrides, CONF / "config.yaml")
        config = command_line.adopted(config, overrides)
        job = Job(config)
        command_line.check_resumable(config, folder) if config["resume"] else check_free(folder, config)
        job.check()
        job.engine.reserve(job)
    except (ValueError, TypeError, InstantiationException) as error:
        raise Failed(command_line.spelt(cause(error), config)) from error
    if job.leads:
        claim(folder, config)
        write_json(folder / "parameters.json", describe.run(config, job.task("cpu"), overrides))
    return job


def check_free(folder: Path, config: dict) -> None:
    """ValueError when the folder holds a run or this node already."""
    role, rank = config["role"], config["rank"]
    own = "parameters.json" if leads(config) else f"stats/{role}{'' if role == 'evaluator' else rank}"
    if (folder / own).exists():
        raise ValueError(HELD.format(folder))


def claim(folder: Path, config: dict) -> None:
    """Of several runs that find the folder free at the same time, one gets it. Failed for the others."""
    try:
        (folder / "parameters.json").open("w" if config["resume"] else "x").close()
    except FileExistsError as error:
        raise Failed(HELD.format(folder)) from error


def cause(error: BaseException) -> str:
    """What went wrong at the bottom of it; Hydra wraps the errors of constructors."""
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    return str(error)


def conclude(job: Job, folder: Path) -> float | list[float]:
    """Print the end of the run and return what it was for."""
    summary = results.summary(folder)
    log.info(report(summary, str(folder), getattr(job.engine, "seconds", "s")))
    if job.config["trace"]:
        draw(folder)
    ended = getattr(job.engine, "ended", summary["ended"])  # a replay's summary says how its source ended
    if ended == "interrupted":
        raise KeyboardInterrupt  # a sweep ends here as well
    if ended == "error":
        raise Failed(f"the run ended in an error; see {folder / 'run.log'}")
    return objectives.value(summary, job.config["objective"])


def draw(folder: Path) -> None:
    """The timeline; a run that is over does not fail for it."""
    try:
        log.info("timeline: %s", timeline.write(folder))
    except (ValueError, OSError) as error:
        log.error("no timeline: %s", error)


def discard(folder: Path) -> None:
    """Remove a folder in which nothing but Hydra has written."""
    if all(path.name in (".hydra", "run.log") for path in folder.iterdir()):
        shutil.rmtree(folder)


def program() -> None:
    """The command: its words, made ready for Hydra, and what they say."""
    try:
        sys.argv[1:] = command_line.prepare(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    gc.freeze()
    try:
        main()
    finally:
        gc.freeze()  # what is left goes with the process; to take it apart first takes most of a second


if __name__ == "__main__":
    import_module("asgd.run").program()  # by its name, so that other processes can import what a launcher sends them
