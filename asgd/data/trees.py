"""Files in folders, whatever they lie in: a folder of this machine, a zip or a tar archive, which are not unpacked.

``files`` has the size in bytes of each file by its path, ``folders`` all folders, empty ones as well; both as paths
from the top with ``/``. Hidden files (``.DS_Store``, ``__MACOSX``) are left out.
"""

import os
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from posixpath import dirname, normpath
from typing import BinaryIO, Protocol

DEPTH = 5  # levels that are looked at: tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG


class Tree(Protocol):
    """Where a data set's files are."""

    name: str
    files: dict[str, int]
    folders: set[str]

    def open(self, path: str) -> BinaryIO:
        """The content of a file; may be called from several threads."""


def tree(source: str) -> Tree:
    """The files of a folder or archive; ValueError for what is neither, or is damaged."""
    path = Path(source).expanduser()
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise ValueError(f"source={source}: no such file or folder (from the directory {os.getcwd()})")
    try:
        return Zip(path) if zipfile.is_zipfile(path) else Tar(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"source={source}: must be a folder, or a whole zip or tar archive ({error})") from error


def holding(tree: Tree, *names: str) -> str | None:
    """What paths begin with in the folder with all these files: the top, or the one folder in which all lies."""
    return next((top for top in ("", only_folder(tree)) if all(f"{top}{name}" in tree.files for name in names)), None)


@cache
def only_folder(tree: Tree) -> str:
    """What all paths begin with where all lies in one folder, as in most archives; else nothing."""
    tops = {path.partition("/")[0] for path in [*tree.files, *tree.folders]}
    return f"{next(iter(tops))}/" if len(tops) == 1 and tops <= tree.folders else ""


def within(folder: str) -> str:
    """What the paths in a folder begin with."""
    return f"{folder}/" if folder else ""


def read(tree: Tree, path: str) -> bytes:
    with tree.open(path) as file:
        return file.read()


class Folder:
    """A folder; links are followed."""

    def __init__(self, path: Path):
        self.name, self.path, self.files, self.folders = str(path), path, {}, set()
        self._walk("", DEPTH)

    def _walk(self, folder: str, depth: int) -> None:
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                path = within(folder) + entry.name
                if hidden(path):
                    continue
                if entry.is_file():
                    self.files[path] = entry.stat().st_size
                elif entry.is_dir() and depth > 1:
                    self.folders.add(path)
                    self._walk(path, depth - 1)

    def open(self, path: str) -> BinaryIO:
        return open(self.path / path, "rb")


class Zip:
    """A zip archive."""

    def __init__(self, path: Path):
        self.name, self.archive = str(path), zipfile.ZipFile(path)
        infos = [info for info in self.archive.infolist() if not hidden(info.filename)]
        self.files = {info.filename: info.file_size for info in infos if not info.is_dir()}
        self.folders = above([*self.files, *(info.filename + "x" for info in infos if info.is_dir())])

    def open(self, path: str) -> BinaryIO:
        return self.archive.open(path)


class Tar:
    """A tar archive, compressed or not; made for few large files, as a compressed one is slow to jump about in."""

    def __init__(self, path: Path):
        self.name, self.archive = str(path), tarfile.open(path)  # noqa: SIM115 - lives as long as the tree
        members = [member for member in self.archive if not hidden(member.name)]
        self.members = {normpath(member.name): member for member in members if member.isfile()}
        self.files = {path: member.size for path, member in self.members.items()}
        self.folders = above(self.files)

    def open(self, path: str) -> BinaryIO:
        return self.archive.extractfile(self.members[path])


def hidden(path: str) -> bool:
    parts = path.split("/")
    return any(part.startswith(".") and part != "." for part in parts) or "__MACOSX" in parts


def above(paths) -> set[str]:
    """All folders in which the paths lie."""
    found = set()
    for path in paths:
        while (path := dirname(path)) and path not in found:
            found.add(path)
    return found
