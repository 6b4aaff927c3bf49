"""The page about methods and delay models, from the files of conf/topology and conf/timing and from the tests."""

import ast
import json
import re
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path

from hydra.utils import get_object
from omegaconf import OmegaConf

from asgd.local_steps import LocalStepsWorker
from asgd.policies import Interrupting, NextVersion
from asgd.weights import Constant
from asgd.workers import MomentumWorker

ROOT = Path(__file__).parents[1]
PARTS = ("worker", "rule", "weight", "policy", "correction", "reads", "outer")
NOT_OPTIONS = {"defaults", "server", "optimizer", *PARTS}
KEYWORDS = r"Expect|Defaults?|Traps?"
CITATION = re.compile(r" \(([^()]*\b(?:19|20)\d\d\b[^()]*)\)")
ORACLE = re.compile(r"(?:^test|_and|(?<=\d))_([A-D]\d+[a-d]?|E)(?=_)")
FAMILIES = {
    "Nobody waits": "Workers go on at once, and each update counts as it is.",
    "Stale updates count less, or are corrected": "Nobody waits.",
    "Somebody waits": "For the others, or for those who are far behind.",
    "Some workers may be wrong": "Steps along what most workers say; those who have said it wait for the step.",
    "Work is interrupted": "Who works on old parameters drops that and starts anew, where the engine can interrupt.",
    "Momentum": "Nobody waits; momentum at the server for all, for each worker, or at the workers.",
    "Local steps": "A round of a worker is several steps with an optimizer of its own.",
}
TOP = """# The catalogue

What is in [conf/topology](../conf/topology) and [conf/timing](../conf/timing), in the words of the files themselves.
Written by `make pages`; a test compares it with them.

`topology=NAME` chooses a method, `topology.OPTION=VALUE` sets one of its options. The tests are properties that must
hold: **A** of clocks and staleness, **B** of the exact dynamics on quadratics, **C** equalities between methods,
**D** of engines and books, **E** failures that must show. Every method also passes D1 (the parameters follow from
configuration, seed and order of arrival) and D8 (the books balance) in
[test_topologies.py](../tests/test_topologies.py); the tables have the tests that name it.

## Topologies
"""
DELAYS = """## Delay models

`timing=NAME` gives every worker seconds per batch: virtual with `engine=virtual`, slept on a real engine.
"""


class Preset:
    """A file of conf/topology or conf/timing: its header, and what it adds to the file it starts from."""

    def __init__(self, group: str, name: str):
        self.group, self.name = group, name
        self.lines = (ROOT / "conf" / group / f"{name}.yaml").read_text().splitlines()
        self.own = OmegaConf.to_container(OmegaConf.create("\n".join(self.lines)))
        self.link = f"[{name}](../conf/{group}/{name}.yaml)"

    @cached_property
    def parent(self) -> "Preset | None":
        first = self.own.get("defaults", ["_self_"])[0]
        return None if first == "_self_" else preset(self.group, first)

    @cached_property
    def all(self) -> dict:
        """The file on top of all that it starts from, as Hydra would lay it."""
        below = self.parent.all if self.parent else {}
        return OmegaConf.to_container(OmegaConf.merge(below, self.own))

    @property
    def header(self) -> list[str]:
        """What it is, and its paragraphs of expectations, defaults and traps."""
        comment = " ".join(line.removeprefix("# ") for line in takewhile(lambda line: line[0] == "#", self.lines))
        return re.split(rf" (?=(?:{KEYWORDS}):)", comment)

    @property
    def summary(self) -> str:
        """The first sentence, without citations."""
        return re.split(r"(?<=\.) ", CITATION.sub("", self.header[0]))[0]

    @property
    def papers(self) -> list[str]:
        cited = [part for group in CITATION.findall(" ".join(self.header)) for part in group.split("; ")]
        return [part for part in cited if re.search(r"\b(19|20)\d\d\b", part)]

    @property
    def options(self) -> dict[str, str]:
        """Each option with its default and what the file says of it; its own come last."""
        options = self.parent.options if self.parent else {}
        for line in self.lines:
            if (found := re.match(r"(\w+): +([^ #]+) *(?:# (.*))?$", line)) and found[1] not in NOT_OPTIONS:
                options[found[1]] = f"`{found[1]}={plain(found[2])}`" + (f" ({found[3]})" if found[3] else "")
        return options

    @property
    def additions(self) -> str:
        """Its own parts, with their classes."""
        parts = [f"{part} `{call(self.own[part])}`" for part in PARTS if self.own.get(part)]
        return ", ".join(parts)

    @property
    def family(self) -> str:
        """Found from the classes of its parts."""
        worker, rule, weight, policy = (get_object(self.all[part]["_target_"]) for part in PARTS[:4])
        if issubclass(worker, LocalStepsWorker):
            return "Local steps"
        if rule.__module__ == "asgd.robust":
            return "Some workers may be wrong"
        if issubclass(policy, Interrupting):
            return "Work is interrupted"
        if issubclass(policy, NextVersion):
            return "Somebody waits"
        if issubclass(worker, MomentumWorker) or rule.__module__ == "asgd.momentum":
            return "Momentum"
        weighs = self.all["correction"] or weight is not Constant
        return "Stale updates count less, or are corrected" if weighs else "Nobody waits"


@cache
def preset(group: str, name: str) -> Preset:
    return Preset(group, name)


@cache
def presets(group: str) -> list[Preset]:
    return [preset(group, path.stem) for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]


def plain(value) -> str:
    """As YAML has it, but ``${..count}`` -> ``count``"""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\$\{\.*([^}:]*)\}", r"\1", text)


def call(node) -> str:
    """``{_target_: asgd.rules.first, count: ${..count}}`` -> ``first(count)``"""
    if not isinstance(node, dict):
        return plain(node)
    values = {key: call(value) for key, value in node.items() if not key.startswith("_")}
    given = ", ".join(key if key == value else f"{key}={value}" for key, value in values.items())
    name = node.get("_target_", "").rpartition(".")[2]
    return f"{name}({given})" if given else name


# The tests that name a topology


def strings(node: ast.AST, module: dict[str, ast.AST]) -> set[str]:
    """The strings in a piece of code, and in what it uses of its module."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            found.add(each.value.removeprefix("topology="))
        elif isinstance(each, ast.Name) and each.id in module:
            found |= strings(module.pop(each.id), module)
    return found


def definitions(tree: ast.Module) -> dict[str, ast.AST]:
    """The functions, classes and constants of a module, by name."""
    found = {}
    for node in tree.body:
        names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        found |= dict.fromkeys([*names, getattr(node, "name", "")], node)
    return found


@cache
def named() -> list[tuple[str, str, set[str]]]:
    """(oracle, test file, the strings it names) for every test of an oracle."""
    found = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        module = definitions(ast.parse(path.read_text()))
        for name, node in module.items():
            words = strings(node, dict(module)) if ORACLE.search(name) else set()
            found += [(oracle, path.name, words) for oracle in ORACLE.findall(name)]
    return found


def oracles(topology: str) -> dict[str, list[str]]:
    """The oracles whose tests name a topology, by test file."""
    files = {}
    for oracle, file, words in named():
        if topology in words:
            files.setdefault(file, set()).add(oracle)
    return {file: in_order(found) for file, found in files.items()}


def in_order(ids) -> list[str]:
    return sorted(set(ids), key=lambda name: (name[0], int(re.sub(r"\D", "", name) or 0), name))


# The page


def markdown(text: str) -> str:
    text = re.sub(r"(`[^`]*`)|([*|<])", lambda found: found[1] or "\\" + found[2], text)
    return with_arxiv(text)


def with_arxiv(text: str) -> str:
    """``arXiv:2501.16168`` as a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(titles: list[str], rows: list[str]) -> str:
    return "\n".join([row(*titles), row(*["---"] * len(titles)), *rows])


def topology_row(each: Preset) -> str:
    ids = in_order(name for found in oracles(each.name).values() for name in found)
    papers = markdown("; ".join(each.papers)) or "-"
    return row(f"[{each.name}](#{each.name})", markdown(each.summary), papers, " ".join(ids))


def section(each: Preset) -> str:
    first, *others = [markdown(text) for text in each.header]
    tests = [f"[{file}](../tests/{file}): {' '.join(ids)}" for file, ids in oracles(each.name).items()]
    facts = {
        "File": each.link + (f", on top of [{each.parent.name}](#{each.parent.name})" if each.parent else ""),
        "Parts": each.additions,
        "Options": ", ".join(markdown(option) for option in each.options.values()),
        "Tests": ", ".join(tests),
    }
    lines = [f"- {name}: {fact}" for name, fact in facts.items() if fact]
    paragraphs = [first, *(re.sub(r"^(\w+:)", r"**\1**", text) for text in others), "\n".join(lines)]
    return "\n\n".join([f"### {each.name}", *paragraphs])


def delay_row(each: Preset) -> str:
    papers = markdown("; ".join(each.papers)) or "-"
    compute = f"`{call(each.all['compute'])}`" if each.all["compute"] else "-"
    return row(each.link, markdown(each.summary), compute, papers)


def page() -> str:
    blocks, sections = [TOP.strip()], []
    for title, what in FAMILIES.items():
        members = [each for each in presets("topology") if each.family == title]
        rows = [topology_row(each) for each in members]
        blocks += [f"### {title}", what, table(["topology", "what it does", "paper", "tests"], rows)]
        sections += [section(each) for each in members]
    rows = [delay_row(each) for each in presets("timing")]
    blocks += [DELAYS.strip(), table(["timing", "what it is", "model", "paper"], rows)]
    return "\n\n".join([*blocks, "## Each topology", *sections]) + "\n"
