"""Writes the pages that are made of other files; ``--check`` only says which of them are not up to date.

``python -m docs.pages`` from the repository root.
"""

import sys
from pathlib import Path

from docs import catalogue, configuration, studies

HERE = Path(__file__).parent
PAGES = {"catalogue.md": catalogue.page, "configuration.md": configuration.page, "studies.md": studies.page}


def outdated() -> list[str]:
    return [name for name, page in PAGES.items() if not (HERE / name).exists() or (HERE / name).read_text() != page()]


def main(words: list[str]) -> str | None:
    """What is wrong, if anything is."""
    for name in (old := outdated()):
        if words != ["--check"]:
            (HERE / name).write_text(PAGES[name]())
    return f"not up to date: {', '.join(old)}" if old and words == ["--check"] else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
