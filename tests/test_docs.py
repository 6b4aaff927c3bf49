"""The documentation: up to date, with links that lead somewhere, commands that can be typed and code that runs."""

import importlib
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from mkdocs.commands.build import build
from mkdocs.config import load_config
from omegaconf import OmegaConf

import asgd
from asgd import command_line, results, words
from asgd.job import Job
from asgd.records import flatten
from docs import configuration, pages
from tests.documents import PAGES, READMES, ROOT, blocks, commands, write_own
from tests.scripted import CONF, a_job, a_server, an_update

DOCS, EXTENDING = ROOT / "docs", ROOT / "docs/extending.md"
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
TYPED = sorted({each for page in PAGES for each in commands(page)})
NOT_THE_JOBS = re.compile(r"-m$|\+?hydra[./]|sweep\.resume=")
SHORT = ("model=mlp", "model.hidden=[8]", "evaluate.every=20", "budget.epochs=null", "budget.updates=40")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, built strictly: a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where a reader has made the files of the pages, in ``own``."""
    folder = tmp_path_factory.mktemp("home")
    write_own([READMES[0], EXTENDING], folder)
    return folder


@pytest.fixture
def at_home(home, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(home)
    return home


def job(options: list[str], home: Path) -> Job:
    """What the words make; of a sweep its last job, whoever starts it."""
    options = command_line.prepare([word for word in options if not NOT_THE_JOBS.match(word)])
    given = [word for word in options if word != "--config-dir=own"]
    last = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None)[-1][-1]
    if given == options:
        return a_job(*last, problem=(), limits=())
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", [*last, f"hydra.searchpath=[file://{home / 'own'}]"])
    return Job(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


# The pages


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_that_is_made_of_other_files_is_up_to_date(name):
    assert (DOCS / name).read_text() == pages.PAGES[name](), "run `make pages`"


@pytest.mark.parametrize("path", [*CONF.glob("*.yaml"), *CONF.glob("[!e]*/**/*.yaml"), *CONF.glob("engine/*.yaml")])
def test_every_option_is_found_with_its_default(path):
    file, content = configuration.File(path), yaml.safe_load(path.read_text())
    group = [path.parent.relative_to(CONF).as_posix().replace("/", ".")] * (path.parent != CONF)
    options = {".".join([*group, name]): value for name, value in flatten(content).items() if "_target_" not in name}
    found = {option.name: yaml.safe_load(option.default or "null") for option in file.options()}
    left_out = re.compile(r"hydra\.(?!launcher|sweeper)|.*\b(defaults|_partial_)$")
    assert {name: value for name, value in options.items() if not left_out.match(name)}.items() <= found.items()


def test_a_comment_goes_on_below_its_option(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "CONF", tmp_path.parent)
    path = tmp_path / "a.yaml"
    path.write_text('# A file.\nurl: "a#b"\nlr: 0.1  # so that it is\n         # stable\n# of b\nb: {}\n')
    comments = {option.name.rpartition(".")[2]: option.comment for option in configuration.File(path).options()}
    assert comments == {"url": "", "lr": "so that it is stable", "b": ""}


def test_the_site_is_built_without_a_warning_and_has_every_page(site):
    for page in PAGES:
        path = site / page.relative_to(ROOT)
        assert path.with_name("index.html" if page.name == "README.md" else f"{page.stem}.html").exists(), page


def test_the_site_needs_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        assert not re.findall(r"""(?:src=|<link [^>]*href=|url\()["']?(?:https?:)?//[^"']*""", page.read_text()), page


def test_every_page_of_docs_is_in_the_navigation():
    nav = re.search(r"^nav:.*?(?=^\w)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE | re.DOTALL)[0]
    assert set(re.findall(r"docs/\S+\.md", nav)) == {f"docs/{path.name}" for path in DOCS.glob("*.md")}


def test_the_first_pages_in_two_languages_lead_to_each_other_and_say_the_same_commands():
    english, spanish = READMES
    assert "](README.es.md)" in english.read_text() and "](README.md)" in spanish.read_text()
    everything, typed = iter(commands(english)), commands(spanish)
    assert {"make run", "make test"} <= set(typed) and len(typed) >= 10
    assert all(command in everything for command in typed)  # in the same order
    assert list(itertools.islice(commands(english), 2)) == typed[:2]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == asgd.__version__ and citation["title"].startswith("asgd")


# Commands


@pytest.mark.parametrize("command", TYPED)
def test_a_command_of_the_pages_can_be_typed(command, at_home, monkeypatch):
    monkeypatch.chdir(at_home)
    program, *rest = shlex.split(re.sub(r"engine\.host=\S+", "engine.host=127.0.0.1", command))
    if "-m" in rest:
        module, options = rest[rest.index("-m") + 1], rest[rest.index("-m") + 2 :]
        job(options, at_home) if module == "asgd.run" else parse(module, options)
    elif program == "make":
        assert rest[0] in TARGETS
    elif program == "pip":
        assert extras(command) <= EXTRAS
    else:
        assert (ROOT / next(word for word in rest if word.endswith(".py"))).exists()


def parse(module: str, options: list[str]) -> None:
    """Read the words of one of our other programs."""
    package = hasattr(importlib.import_module(module), "__path__")
    words.parse(importlib.import_module(f"{module}.__main__" if package else module).Options, options)


def extras(text: str) -> set[str]:
    """``asgd[plot]`` and ``-e .[plot,parquet]``"""
    return {each for found in re.findall(r"(?:asgd|\.)\[([\w,]+)\]", text) for each in found.split(",")}


def test_the_extras_are_explained_and_no_page_names_others():
    assert extras((DOCS / "installing.md").read_text()) == EXTRAS
    assert all(extras(page.read_text()) <= EXTRAS for page in PAGES)


# Code


def test_the_topology_of_the_readme_runs_as_it_is_typed(home, start):
    typed = next(each for each in commands(READMES[0]) if "topology=median" in each)
    command = start(*shlex.split(typed)[3:], "engine=virtual", *SHORT, cwd=home)
    assert command.wait() and command.code == 0, command.output
    summary = results.summary(command.folder)
    assert summary["ended"] == "budget" and summary["updates"] == 40
    assert summary["applied"] == 3 * 40 and summary["staleness_max"] >= 1
    shown = [block.text for block in blocks(READMES[0]) if block.text.startswith("# own/")]
    assert len(shown) == 2 and sum(len(text.splitlines()) for text in shown) <= 20


def test_the_rule_of_the_readme_steps_along_the_median(at_home):
    rule = importlib.import_module("own.median").Median(count=3)
    server = a_server(workers=3, rule=rule)  # of rate 1, from 0
    for worker in (1, 2, 3):
        server.join(worker, 10 * worker, now=0.0)
    for worker, value in ((1, 1.0), (2, 1e9), (3, 2.0)):
        server.push(an_update(worker, value=value), now=1.0)
    assert server.version == 1 and torch.equal(server.snapshot().params, torch.full((3,), -2.0))


def test_weight_model_and_data_set_of_the_pages_learn_together(at_home, tmp_path):
    typed = [shlex.split(each)[3:] for each in commands(EXTENDING)]
    options = [word for each in typed for word in each if not word.startswith("model=mlp")]
    made = job([*dict.fromkeys(options), "engine=virtual", *SHORT[2:]], at_home)
    made.check()
    made.engine.run(made, tmp_path)
    summary = results.summary(tmp_path)
    assert summary["ended"] == "budget" and summary["best_accuracy"] > 0.8
    updates = results.updates(tmp_path).query("event == 'push'")
    assert (updates.applied == (updates.staleness <= 8)).all() and made.workers == 4


def test_the_weight_of_the_pages_is_what_it_says(at_home):
    weight = importlib.import_module("own.half").Half()
    assert [weight(staleness) for staleness in (0, 1, 8, 9)] == [1.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_readme_reads_results_as_it_says(page, swept, monkeypatch):
    monkeypatch.chdir(swept)
    code = next(block.text for block in blocks(page) if block.language == "python" and "results" in block.text)
    exec(code, names := {})
    assert len(names["runs"]) == 8 and set(names["curves"].folder) == set(names["runs"].folder)
