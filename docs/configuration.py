"""The page about every file of conf: what it says of itself, and its options with their defaults and comments."""

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.utils import get_object

from docs.catalogue import markdown, table

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
TOP = """# Configuration

Every file of [conf](../conf/config.yaml), in its own words. Written by `make pages`; a test compares it with
them.

`GROUP=NAME` chooses a file, `GROUP.OPTION=VALUE` changes one of its options; `python -m asgd.run --help` lists the
groups, and `python -m asgd.run OPTIONS --cfg job` shows what they come to. A class is named by `_target_`, and may be
one of [your own](extending.md); an option that is an object with options of its own is shown with the name of its
class. `${...}` takes the value of another option.

## The main file
"""
GROUPS = {
    "model": "What is trained.",
    "dataset": "What it is trained on. [Making shards](data.md), [streaming them](streaming.md).",
    "optimizer": "What the server does with a direction.",
    "schedule": "How the learning rate changes, counted at the server.",
    "codec": "How payloads are made smaller for the way to the server. See [codecs](design.md#4-engines).",
    "timing": "How long everything takes: in virtual time all there is, on real engines slept on top. "
    "See the [delay models](catalogue.md#delay-models).",
    "engine": "How messages move and what the time is. See [engines](engines.md).",
    "tracker": "Who else is told of a run. See [watching](watching.md#tensorboard-mlflow-weights-biases).",
    "hydra/launcher": "Where the runs of a sweep are made. See [sweeps](sweeps.md#in-parallel).",
    "hydra/sweeper": "Which runs a sweep makes. See [sweeps](sweeps.md).",
}
LISTED = {
    "topology": "The methods; their options are in [the catalogue](catalogue.md).",
    "experiment": "Presets and sweeps, over all groups. See [studies](studies.md).",
}


class Option(NamedTuple):
    name: str
    default: str
    comment: str


class File:
    """A file of conf. ``group`` is empty for the main one."""

    def __init__(self, path: Path):
        self.path, self.text = path, path.read_text()
        self.group = path.parent.relative_to(CONF).as_posix().strip(".")
        self.root = yaml.compose(self.text)

    @property
    def link(self) -> str:
        return f"[{self.path.relative_to(ROOT)}](../{self.path.relative_to(ROOT)})"

    @property
    def header(self) -> str:
        """Its first comment, with a paragraph for each keyword such as ``Expect:``."""
        lines = takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        comment = " ".join(line.removeprefix("# ") for line in lines if not line.startswith("# @package"))
        return re.sub(r" (?=(?:Expect|Source|Defaults?|Traps?)\b:?)(?<=[.!)] )", "\n\n", comment)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def facts(self) -> list[str]:
        content = yaml.safe_load(self.text)
        below = [each for each in content.get("defaults", []) if each != "_self_"]
        facts = [f"On top of {self.sibling(each)}." for each in below if isinstance(each, str)]
        facts += [f"Chooses {shown(each)} as well." for each in below if isinstance(each, dict)]
        return facts + ([f"Class: {source(content['_target_'])}."] if "_target_" in content else [])

    def sibling(self, name: str) -> str:
        """A file that it starts from; one of Hydra's has no section here."""
        ours = self.path.with_stem(name).exists()
        return f"[{name}](#{anchor(self.group, name)})" if ours else f"Hydra's `{name}`"

    def options(self, node: yaml.MappingNode | None = None, prefix: str = "") -> Iterator[Option]:
        """All that can be given on the command line, by its whole name."""
        for key, value in (node or self.root).value:
            name = f"{prefix}{key.value}"
            if key.value.startswith("_") or name in ("defaults", "hydra"):
                continue
            nested = isinstance(value, yaml.MappingNode) and not value.flow_style
            comment = self.comment(key if nested else value)
            default = target(value) if nested else self.text[value.start_mark.index : value.end_mark.index]
            if default or comment or not nested:
                yield Option(f"{self.group.replace('/', '.')}.{name}".strip("."), default, comment)
            if nested:
                yield from self.options(value, f"{name}.")

    def comment(self, node: yaml.Node) -> str:
        """What is behind a value, in the same line and in those below that go on with nothing but it."""
        line, rest = self.lines[node.end_mark.line], self.lines[node.end_mark.line + 1 :]
        start = line.find("# ", node.end_mark.column)
        more = takewhile(lambda each: each.lstrip().startswith("# ") and each.index("# ") == start, rest)
        return " ".join(each[start + 2 :] for each in [line, *more]) if start >= 0 else ""


def target(node: yaml.MappingNode) -> str:
    """The class that a mapping names, without its module."""
    named = {key.value: value.value for key, value in node.value}
    return str(named.get("_target_", "")).rpartition(".")[2]


def shown(choice: dict) -> str:
    """``{"override /timing@_global_.timing": "none"}`` -> `` `timing=none` ``"""
    [(key, value)] = choice.items()
    return f"`{key.split('/')[-1].partition('@')[0]}={value}`"


def anchor(group: str, name: str) -> str:
    """Of the heading ``group=name``."""
    return re.sub(r"[/=]", "", group + name)


def source(name: str) -> str:
    """A class, with a link to its file where that is ours."""
    if not name.startswith("asgd."):
        return f"`{name}`"
    return f"[`{name}`](../{Path(inspect.getsourcefile(get_object(name))).relative_to(ROOT)})"


def files(group: str) -> list[File]:
    return [File(path) for path in sorted((CONF / group).glob("*.yaml"))]


def groups() -> list[str]:
    """Those of the main file in its order, then the others."""
    chosen = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    named = [name for each in chosen if isinstance(each, dict) for name in each]
    there = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/**/*.yaml")}
    return named + sorted(name for name in there - {*named} if not name.startswith("experiment/"))


def options(file: File) -> list[str]:
    rows = [f"| `{each.name}` | {code(each.default)} | {markdown(each.comment)} |" for each in file.options()]
    return [table(["option", "default", "what"], rows)] if rows else []


def code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def section(file: File) -> list[str]:
    facts = " ".join([*file.facts, f"File: {file.link}."])
    return [f"### {file.group}={file.path.stem}", markdown(file.header), facts, *options(file)]


def listed(group: str) -> list[str]:
    """The files with their first sentence: their options are elsewhere."""
    lines = [f"- [{file.path.stem}](../conf/{group}/{file.path.name}): {sentence(file)}" for file in files(group)]
    return ["\n".join(lines)]


def sentence(file: File) -> str:
    return markdown(re.split(r"(?<=[.]) (?=[A-Z])", file.header.partition("\n")[0])[0])


def page() -> str:
    main = File(CONF / "config.yaml")
    blocks = [TOP.strip(), markdown(main.header), *options(main)]
    for group in groups():
        blocks += [f"## {group}", (GROUPS | LISTED).get(group, "")]
        blocks += listed(group) if group in LISTED else [block for file in files(group) for block in section(file)]
    return "\n\n".join(block for block in blocks if block) + "\n"
