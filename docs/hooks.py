"""What the site is made of: the README, docs, and whatever they link to, each where it is in the repository.

So a link works in the site if it works in a checkout, and a strict build finds those that do not. Sources are shown as
pages; nothing points to a host. MkDocs calls ``on_files`` (mkdocs.yml names this file).
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)")
AS_IT_IS = (".md", ".png", ".svg", ".css", ".ipynb")
SHOWN = """---
search: {{exclude: true}}
hide: [toc]
---
# {path}

{text}
"""


class Shown(File):
    """A source or a folder, as a page."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and the repository's in place of those that MkDocs has found."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theme, *(published(path, config) for path in sorted(reached(first_pages())))])


def first_pages() -> list[Path]:
    return [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.css")]


def reached(paths: list[Path]) -> set[Path]:
    """These files, and all that can be reached from them by links."""
    found, rest = set(), list(paths)
    while rest:
        path = rest.pop()
        if path not in found:
            found.add(path)
            rest += [target for target in linked(path) if target.is_relative_to(ROOT) and target.exists()]
    return found


def linked(path: Path) -> list[Path]:
    """Where the links of a Markdown page lead to, should they be paths; the files of a folder."""
    if path.is_dir():
        return sorted(each for each in path.iterdir() if each.is_file())
    links = LINK.findall(path.read_text()) if path.suffix == ".md" else []
    return [(path.parent / link).resolve() for link in links]


def published(path: Path, config: MkDocsConfig) -> File:
    name = path.relative_to(ROOT).as_posix()
    if path.suffix in AS_IT_IS:
        return File(name, str(ROOT), config.site_dir, config.use_directory_urls)
    page = Shown(name, None, config.site_dir, config.use_directory_urls, dest_uri=f"{name}.html")
    page.content_string = SHOWN.format(path=name, text=listing(path) if path.is_dir() else fenced(path))
    return page


def listing(folder: Path) -> str:
    return "\n".join(f"- [{path.name}]({folder.name}/{path.name})" for path in linked(folder))


def fenced(path: Path) -> str:
    return f"`````{path.suffix.lstrip('.')}\n{path.read_text()}`````"
