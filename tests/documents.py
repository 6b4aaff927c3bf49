"""What the pages of README and docs tell a reader to type, taken out of them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.es.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "experiments").glob("*/README.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^host\d\$ ")


class Block(NamedTuple):
    language: str  # empty for commands and for what is printed
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def commands(page: Path) -> list[str]:
    """The command lines, each in one line, without prompts and comments."""
    text = "\n".join(block.text for block in blocks(page) if not block.language)
    lines = [PROMPT.sub("", line) for line in text.replace("\\\n", " ").splitlines()]
    starts = ("python ", "torchrun ", "make ", "pip ", ".venv/bin/python ")
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith(starts)]


def write_own(pages: list[Path], folder: Path) -> None:
    """The files that the pages show, each of which begins with its name: ``# own/median.py``"""
    for text in [block.text for page in pages for block in blocks(page)]:
        if found := re.match(r"# (own/\S+)\n", text):
            path = folder / found[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
