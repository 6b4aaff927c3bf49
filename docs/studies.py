"""The page about the studies in experiments: of each README claim, figure, result, and what did not come out."""

import posixpath
import re
from pathlib import Path

from docs.catalogue import with_arxiv

ROOT = Path(__file__).parents[1]
LABEL = re.compile(r"\*\*([^*]+?)\.?\*\*")
FAILED = "What did not come out"
TOP = """# Studies

One folder of [experiments](design.md#5-layout) per question, with its command, its figures, its data and its caveats.
This page is their short form, in their own words, and with what did *not* come out as published. Written by
`make pages`; a test compares it with them.
"""
PUBLISHED = """## Published claims

Each was made again with the command in its README, with several seeds, at the published settings or at rates that
were tuned as the README says.
"""
OWN = "## Questions of our own"


class Study:
    """``experiments/NAME/README.md``: a title, and paragraphs of which some begin with a **Label.**"""

    def __init__(self, path: Path):
        self.path = path
        self.title, *self.blocks = map(self.moved, path.read_text().strip().split("\n\n"))

    def moved(self, text: str) -> str:
        """With links that begin at docs."""
        place = f"../experiments/{self.path.parent.name}"
        moved = re.sub(r"\]\(([^):]+)\)", lambda found: f"]({posixpath.normpath(f'{place}/{found[1]}')})", text)
        return with_arxiv(moved)

    def part(self, *labels: str) -> list[str]:
        """The paragraphs from one of these labels on to the next label."""
        found, inside = [], False
        for block in self.blocks:
            if label := LABEL.match(block):
                inside = label[1].startswith(labels)
            found += [block] if inside else []
        return found

    @property
    def published(self) -> bool:
        return "arXiv" in " ".join(self.part("Claim"))

    @property
    def result(self) -> list[str]:
        """Its first paragraph, and the table that may follow."""
        first, *others = self.part("Result")
        return [first, *[block for block in others[:1] if block.startswith("|")]]

    @property
    def chosen(self) -> list[str]:
        """Claim, figures, result and what failed, in the order of the README."""
        figures = [block for block in self.blocks if block.startswith("![")]
        failed = [block for block in self.part(FAILED) if not block.startswith("```")]
        wanted = {*self.part("Claim", "Question"), *figures, *self.result, *failed}
        return [block for block in self.blocks if block in wanted]

    def text(self) -> str:
        heading = f"### {self.title.removeprefix('# ')}"
        more = f"[The whole study, with its command](../experiments/{self.path.parent.name}/README.md)"
        return "\n\n".join([heading, *self.chosen, more])


def studies() -> list[Study]:
    return [Study(path) for path in sorted((ROOT / "experiments").glob("*/README.md"))]


def page() -> str:
    all = studies()
    published = [study.text() for study in all if study.published]
    own = [study.text() for study in all if not study.published]
    return "\n\n".join([TOP.strip(), PUBLISHED.strip(), *published, OWN, *own]) + "\n"
