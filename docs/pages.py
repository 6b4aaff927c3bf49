"""Writes the pages that are made of other files: ``python -m docs.pages`` from the repository root, or `make pages`."""

from pathlib import Path

from docs import catalogue, configuration, studies

HERE = Path(__file__).parent
PAGES = {"catalogue.md": catalogue.page, "configuration.md": configuration.page, "studies.md": studies.page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
