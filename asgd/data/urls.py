"""What a URL of a shard means: its scheme, its place in a store, and the patterns that stand for many."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import unquote, urlsplit

from webdataset.shardlists import expand_urls

STORES = ("gs", "s3", "az", "http", "https")  # schemes of shards that are not files


def scheme(url: str) -> str:
    """``file`` for a plain path or a ``file:`` URL, else one of STORES; ValueError for any other."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", url)
    name = found[1].lower() if found else "file"
    if name not in ("file", *STORES):
        allowed = ", ".join(f"{each}://" for each in STORES)
        raise ValueError(f"{url}: cannot read {name}: shards; give a path, a file: URL or one of {allowed}")
    return name


def is_local(url: str) -> bool:
    """Whether the URL names a file of this machine."""
    return scheme(url) == "file"


def local_path(url: str) -> str:
    """The file behind a plain path or a ``file:`` URL."""
    if not re.match("file:", url, re.IGNORECASE):
        return url
    return unquote(re.sub(r"^//(localhost)?(?=/)", "", url[len("file:") :]))


def split(url: str) -> tuple[str, str]:
    """(the store's own URL, the path in it): ``gs://bucket`` and ``dir/x.tar``, ``https://host`` and ``dir/x.tar``.

    Only the paths of ``http(s)`` URLs are percent-encoded; ValueError where bucket or path is missing.
    """
    kind = scheme(url)
    store, _, path = url[len(f"{kind}://") :].partition("/")
    if not url.lower().startswith(f"{kind}://") or not store or not path.strip("/"):
        raise ValueError(f"{url}: must name a shard as {kind}://BUCKET/PATH (http and https: HOST/PATH)")
    if kind in ("http", "https"):
        if urlsplit(url).query or urlsplit(url).fragment:
            raise ValueError(f"{url}: a query (?...) or fragment (#...) cannot be read; give the plain address")
        path = unquote(path)
    return f"{kind}://{store}", path


def patterns(url: str | Sequence[str] | None, option: str) -> list[str]:
    """The paths and globs of a path, a brace expansion ``x-{0000..0007}.tar`` or a list of these."""
    if not url:
        raise ValueError(f"this data set needs shards: give {option}=PATH, a pattern such as DIR/*.tar, or a list")
    given = [url] if isinstance(url, str) else list(url)
    return [one for pattern in given for one in expand_urls(pattern)]


def once(shards: list[str], option: str) -> list[str]:
    """The shards themselves; ValueError if one is there twice."""
    seen = set()
    for shard in shards:
        if shard in seen:
            raise ValueError(f"{option}: {shard} is given more than once; its samples would count twice")
        seen.add(shard)
    return shards


def is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def before_glob(pattern: str) -> str:
    """The folder that surely holds all matches: the part before the first segment with a wildcard."""
    fixed = re.split(r"[*?\[]", pattern)[0]
    return fixed.rpartition("/")[0]


def matches(path: str, pattern: str) -> bool:
    """As the shell: ``*`` stays within one segment, ``**`` stands for any number of them."""
    return path == pattern or _fits(path.split("/"), pattern.split("/"))


def _fits(parts: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_fits(parts[first:], wanted[1:]) for first in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])
