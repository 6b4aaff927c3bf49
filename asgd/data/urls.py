"""From what a user gives as ``dataset.url`` to the list of shards."""

import glob
import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from webdataset.shardlists import expand_urls


def local_path(url: str) -> str:
    """The file behind a plain path or a ``file:`` URL; ValueError for any other scheme."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", url)
    if scheme is None:
        return url
    if scheme[1].lower() != "file":
        raise ValueError(f"{url}: cannot read {scheme[1]}: shards; give a local path or a file: URL")
    path = url[len("file:") :]
    return unquote(re.sub(r"^//(localhost)?(?=/)", "", path))


def expand(url: str | Sequence[str] | None, option: str) -> list[str]:
    """The shards of a path, a brace expansion ``x-{0000..0007}.tar``, a glob ``*.tar`` or a list of these.

    Raises ValueError naming ``option`` when nothing is given, a pattern matches nothing or a shard is given twice.
    """
    if not url:
        raise ValueError(f"this data set needs shards: give {option}=PATH, a pattern such as DIR/*.tar, or a list")
    patterns = [url] if isinstance(url, str) else list(url)
    shards = [shard for pattern in patterns for one in expand_urls(pattern) for shard in _matches(one, option)]
    twice = sorted({shard for shard in shards if shards.count(shard) > 1})
    if twice:
        raise ValueError(f"{option}: {twice[0]} is given more than once; its samples would count twice")
    return shards


def _matches(pattern: str, option: str) -> list[str]:
    """The files of one glob pattern, sorted, or the path itself if it is none."""
    path = local_path(pattern)
    if os.path.exists(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise ValueError(f"{option}: no such file: {pattern} (from the directory {os.getcwd()})")
    return found
