"""Where shards are kept: files of this machine, object stores (gs://, s3://, az://) and web servers (http(s)://).

A stream gives every byte of one version of a shard exactly once, or raises an error that names shard, byte and cause.
"""

import glob
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import islice
from typing import BinaryIO

import obstore

from asgd.data import options, urls
from asgd.data.ahead import ReadAhead
from asgd.data.cache import Cache
from asgd.data.checked import checked
from asgd.data.clients import ABSENT, REFUSED, Access, cause, patiently
from asgd.data.errors import DataError
from asgd.data.stream import RemoteObject, identity

CHECK_SECONDS = 15  # of trying again before training: what is wrong then is seldom a passing fault
AT_ONCE = 16  # requests for the sizes of shards
LISTED = 20  # shards of one folder from which on it is listed
GIGABYTE = 10**9


class Storage:
    """Reads shards. Can be pickled: clients are made in the process that reads, when it first does.

    ``anonymous`` asks without credentials, ``token`` is a bearer token and ``endpoint`` the address of an emulator or
    of a compatible store; without them credentials and addresses are the environment's. A request is made again after
    ``timeout`` seconds without a byte, and given up ``retry_seconds`` after the last byte. ``cache_dir`` keeps copies
    of remote shards, at most ``cache_gb`` * 10^9 bytes (None: as the disk allows), for all processes of a host.
    """

    def __init__(
        self,
        anonymous: bool = False,
        token: str | None = None,
        endpoint: str | None = None,
        timeout: float = 30,
        retry_seconds: float = 180,
        cache_dir: str | None = None,
        cache_gb: float | None = None,
    ):
        options.at_least(0.001, **{"storage.timeout": timeout})
        options.at_least(0.0, **{"storage.retry_seconds": retry_seconds})
        _check_access(anonymous, token, endpoint)
        _check_cache(cache_dir, cache_gb)
        self._access, self._retry_seconds = Access(anonymous, token, endpoint, timeout), retry_seconds
        self._cache = None if cache_dir is None else (cache_dir, None if cache_gb is None else int(cache_gb * GIGABYTE))

    def expand(self, url: str | Sequence[str] | None, option: str) -> list[str]:
        """The shards of a path or URL, a brace expansion ``x-{0000..0007}.tar``, a glob ``*.tar`` or a list of these.

        Raises ValueError naming ``option`` when nothing is given, a pattern matches nothing or a shard is given twice.
        """
        found = [shard for pattern in urls.patterns(url, option) for shard in self._matches(pattern, option)]
        return urls.once(found, option)

    def _matches(self, pattern: str, option: str) -> list[str]:
        """The shards of one pattern, sorted, or the shard itself."""
        if urls.is_local(pattern):
            return _local_matches(pattern, option)
        place, path = urls.split(pattern)
        if not urls.is_glob(path):
            return [pattern]
        if urls.scheme(pattern) in ("http", "https"):
            raise ValueError(f"{option}: {pattern}: a web server cannot be listed; give x-{{0000..0007}}.tar instead")
        found = sorted(each for each in self._listed(pattern, option) if urls.matches(each, path))
        if not found:
            raise ValueError(f"{option}: no such object: {pattern}")
        return [f"{place}/{each}" for each in found]

    def _listed(self, pattern: str, option: str) -> list[str]:
        """The paths of the objects in, and if need be below, the folder that holds all matches."""
        client, path = self._access.client(pattern)
        folder = urls.before_glob(path)
        if urls.is_glob(path.rpartition("/")[0]):
            pages = self._early(option, pattern, lambda: list(obstore.list(client, folder)))
        else:
            pages = [self._early(option, pattern, lambda: obstore.list_with_delimiter(client, folder)["objects"])]
        return [meta["path"] for page in pages for meta in page]

    def check(self, shards: Sequence[str], option: str) -> dict[str, int]:
        """Bytes of each; ValueError naming shard, cause and remedy for what can be known before training."""
        if self._cache is not None:
            _copies(*self._cache, os.getpid())
        folders = defaultdict(list)
        for shard in shards:
            folders[shard.rpartition("/")[0]].append(shard)
        known = {shard: size for each in folders.values() for shard, size in self._listed_sizes(each).items()}
        unknown = [shard for shard in shards if shard not in known]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            known |= zip(unknown, pool.map(partial(self._size, option=option), unknown), strict=True)
        for shard in shards:
            if not known[shard]:
                raise ValueError(f"{option}: {shard} is empty: write it again")
        return known

    def _listed_sizes(self, shards: list[str]) -> dict[str, int]:
        """What a few pages of a listing say of the sizes of shards of one folder, but of the first.

        To list is not to read: who may do one may lack permission for the other.
        """
        if len(shards) < LISTED or urls.scheme(shards[0]) not in ("gs", "s3", "az"):
            return {}
        client, path = self._access.client(shards[0])
        wanted = {urls.split(shard)[1]: shard for shard in shards[1:]}
        try:
            pages = islice(obstore.list(client, path.rpartition("/")[0], chunk_size=1000), len(shards) // 500 + 4)
            return {wanted[meta["path"]]: meta["size"] for page in pages for meta in page if meta["path"] in wanted}
        except Exception:  # they are then asked for singly
            return {}

    def size(self, url: str) -> int:
        """The number of bytes of a shard; ValueError if it is not there."""
        return self._size(url, option="shards")

    def _size(self, url: str, option: str) -> int:
        if not urls.is_local(url):
            return self._early(option, url, partial(self._head, url))["size"]
        try:
            with open(urls.local_path(url), "rb") as file:
                return os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ValueError(f"{option}: cannot read {url} ({error.strerror}; permissions?)") from error

    def open(self, url: str, sha256: str | None = None) -> BinaryIO:
        """A shard's bytes, of which ``sha256`` (hexadecimal), if given, is the checksum; DataError when it is not.

        A file without a checksum is opened as it is, seekable; anything else is one forward stream.
        """
        if urls.is_local(url):
            return checked(open(urls.local_path(url), "rb"), url, sha256)
        remote = RemoteObject(url, self._access, self._retry_seconds, sha256)
        return ReadAhead(remote.chunks()) if self._cache is None else self._cached(remote, sha256)

    def _cached(self, remote: RemoteObject, sha256: str | None) -> BinaryIO:
        """From the copy of the version that the store has now, else from the store, keeping a copy."""
        try:
            remote.meta = patiently(self._retry_seconds, partial(self._head, remote.url))
        except Exception as error:
            raise DataError(f"{remote.url}: {cause(error, remote.url, self._access)}") from error
        size, key = remote.meta["size"], (remote.url, *identity(remote.meta))
        if not remote.meta["e_tag"] and not remote.meta["last_modified"].timestamp():  # no telling when it changes
            return ReadAhead(remote.chunks())
        copies = _copies(*self._cache, os.getpid())
        if (copy := copies.open(key, size)) is not None:
            return checked(copy, remote.url, sha256)
        return copies.filling(key, size, ReadAhead(remote.chunks()))

    def read(self, url: str) -> bytes | None:
        """A small object whole; None if it is not there, which who may not list is told as "no permission"."""
        try:
            with self.open(url) as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except DataError as error:
            if isinstance(error.__cause__, (*ABSENT, *REFUSED)):
                return None
            raise

    def _head(self, url: str) -> dict:
        client, path = self._access.client(url)
        return obstore.head(client, path)

    def _early(self, option: str, url: str, call: Callable):
        """The result of a call before training; ValueError with cause and remedy."""
        try:
            return patiently(min(CHECK_SECONDS, self._retry_seconds), call)
        except Exception as error:
            what = self._absent(url) if isinstance(error, ABSENT) else cause(error, url, self._access)
            raise ValueError(f"{option}: {url}: {what}") from error

    def _absent(self, url: str) -> str:
        """Which of the two it is, where the store tells."""
        client, _ = self._access.client(url)
        try:
            next(iter(obstore.list(client, chunk_size=1)), None)
            return "no such object (spelling?)"
        except Exception as error:
            what = cause(error, url, self._access)
            return what if what.startswith("no such bucket") else "no such bucket or object (spelling?)"


@cache
def _copies(folder: str, limit: int | None, process: int) -> Cache:
    """One for each process, which then removes what killed ones have left."""
    return Cache(folder, limit)


def _local_matches(pattern: str, option: str) -> list[str]:
    path = urls.local_path(pattern)
    if os.path.exists(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise ValueError(f"{option}: no such file: {pattern} (from the directory {os.getcwd()})")
    return found


def _check_access(anonymous: bool, token: str | None, endpoint: str | None) -> None:
    if not isinstance(anonymous, bool):
        raise ValueError(f"dataset.storage.anonymous={anonymous}: must be true or false")
    if anonymous and token is not None:
        raise ValueError("dataset.storage: anonymous=true and a token exclude each other; give one of them")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"dataset.storage.endpoint={endpoint}: must begin with http:// or https://")


def _check_cache(cache_dir: str | None, cache_gb: float | None) -> None:
    if cache_gb is None:
        return
    if cache_dir is None:
        raise ValueError(f"dataset.cache_gb={cache_gb}: there is no cache; give dataset.cache_dir=FOLDER too")
    if isinstance(cache_gb, bool) or not isinstance(cache_gb, int | float) or not cache_gb > 0:
        raise ValueError(f"dataset.cache_gb={cache_gb!r}: must be a number above 0, of 10^9 bytes")
