"""Clients of object stores (obstore), what their errors mean, and which of them may pass.

Facts about obstore 0.12 that matter here: its threads do not survive a fork; without a token or ``skip_signature`` it
asks the cloud's metadata address; it ignores STORAGE_EMULATOR_HOST; its time-out of 30 s is for a whole request, body
included, so a long stream needs the read time-out instead; its own retries count their time from the start of the
request, which for a long stream is soon over. So retries are made here, by ``Patience``.
"""

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TypeVar

import obstore
from obstore.exceptions import (
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import AzureStore, GCSStore, HTTPStore, ObjectStore, S3Store

from asgd.data.urls import scheme, split

Value = TypeVar("Value")
REFUSED = (PermissionDeniedError, UnauthenticatedError)
ABSENT = (FileNotFoundError, NotFoundError)
FINAL = (*ABSENT, *REFUSED, PreconditionError, InvalidPathError, NotSupportedError, UnknownConfigurationKeyError)
LASTING = ("Header", "redirect", "builder error", "no bucket named", "non-partial")  # in messages of what will not pass
UNKNOWN = r"169\.254\.169\.254|metadata\.google|performing token request|oauth2/token|[Cc]redential"  # who is asking
NO_RETRIES = {"max_retries": 0}
CREDENTIALS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_REGION",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
    "http": "dataset.storage.token",
    "https": "dataset.storage.token",
}


@dataclass(frozen=True)
class Access:
    """How stores are reached: credentials, another address than the cloud's own, seconds without a byte."""

    anonymous: bool
    token: str | None = field(repr=False)
    endpoint: str | None
    timeout: float

    def client(self, url: str) -> tuple[ObjectStore, str]:
        """The client of a URL's store, one for each process, and the path in it; ValueError for what cannot be."""
        place, path = split(url)
        return _client(self, place, _emulator(), os.getpid()), path


@cache
def _client(access: Access, place: str, emulator: str | None, process: int) -> ObjectStore:
    _refuse_forks(process)
    kind, name = scheme(place), place.partition("://")[2]
    try:
        if kind in ("http", "https"):
            options = _options(access, place) | {"default_headers": _headers(access)}
            return HTTPStore(place, client_options=options, retry_config=NO_RETRIES)
        make, config = _MAKERS[kind](access, emulator)
        options = _options(access, config.get("base_url") or config.get("endpoint") or "")
        config = {key: value for key, value in config.items() if value is not None}
        return make(name, config=config, client_options=options, retry_config=NO_RETRIES)
    except Exception as error:
        raise ValueError(f"{place}: {_first_line(error)}; credentials come from {CREDENTIALS[kind]}") from error


def _emulator() -> str | None:
    """Google's own variable for an emulator: HOST:PORT, with or without http://."""
    host = os.environ.get("STORAGE_EMULATOR_HOST") or None
    return f"http://{host}" if host and "://" not in host else host


def _gs(access: Access, emulator: str | None):
    endpoint = access.endpoint or emulator
    emulated = endpoint is not None and (endpoint == emulator or endpoint.startswith("http://"))
    unsigned = access.anonymous or (emulated and access.token is None)
    return GCSStore, {"base_url": endpoint, "bearer_token": access.token, "skip_signature": unsigned or None}


def _s3(access: Access, emulator: str | None):
    if access.token is not None:
        raise ValueError("dataset.storage.token is not for s3:// (session tokens: AWS_SESSION_TOKEN)")
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    return S3Store, {"endpoint": access.endpoint or named, "skip_signature": access.anonymous or None}


def _az(access: Access, emulator: str | None):
    """obstore itself reads the other addresses, e.g. AZURE_STORAGE_ENDPOINT."""
    config = {"endpoint": access.endpoint, "token": access.token, "skip_signature": access.anonymous or None}
    return AzureStore, config


_MAKERS = {"gs": _gs, "s3": _s3, "az": _az}


def _headers(access: Access) -> dict[str, str]:
    """Content codings are refused: they would change offsets and lengths."""
    signed = {} if access.token is None else {"authorization": f"Bearer {access.token}"}
    return {"accept-encoding": "identity"} | signed


def _options(access: Access, address: str) -> dict:
    connect, read = timedelta(seconds=min(access.timeout, 10)), timedelta(seconds=access.timeout)
    whole = timedelta(days=1)  # of a request with its body; there is no way to say none
    options = {"connect_timeout": connect, "read_timeout": read, "timeout": whole}
    return options | ({"allow_http": True} if address.startswith("http://") else {})


_jitter = random.SystemRandom()  # pauses shall not move anybody's seeded numbers
_owner: list[int] = []  # the process that has started obstore's threads


def _refuse_forks(process: int) -> None:
    """RuntimeError in a forked copy of a process that has used obstore: it would wait for ever."""
    if not _owner:
        _owner.append(process)
    if _owner != [process]:
        raise RuntimeError("this process was forked from one that reads remote shards: start it with spawn instead")


class Patience:
    """How long a call that failed is tried again: ``seconds`` since it last got on, with growing pauses."""

    def __init__(self, seconds: float):
        self.seconds, self.failures, self._since = seconds, 0, None

    def progress(self) -> None:
        self.failures, self._since = 0, None

    def pause(self, error: Exception) -> float:
        """Seconds to wait before the next attempt; raises ``error`` again if it is final or time is up."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left = self._since + self.seconds - now
        if not may_pass(error) or left <= 0:
            raise error
        self.failures += 1
        return min(_jitter.uniform(0.05, 0.1) * 2 ** min(self.failures, 8), left)


def patiently(seconds: float, call: Callable[[], Value]) -> Value:
    """The result of a call that may be repeated."""
    patience = Patience(seconds)
    while True:
        try:
            return call()
        except Exception as error:
            time.sleep(patience.pause(error))


def may_pass(error: Exception) -> bool:
    """Whether a repetition may help: broken connections, time-outs, 408, 429 and 5xx."""
    if isinstance(error, FINAL) or not isinstance(error, obstore.exceptions.BaseError | OSError):
        return False
    if any(sign in str(error) for sign in LASTING):
        return False
    status = re.search(r"status code: (\d+)", str(error))
    return status is None or status[1] in ("408", "429") or status[1].startswith("5")


def cause(error: Exception, url: str, access: Access) -> str:
    """What an error of obstore means for the user, and what to do, on one line."""
    kind = scheme(url)
    if isinstance(error, ValueError | RuntimeError):
        return str(error)
    if isinstance(error, PreconditionError):
        return "the object was replaced while it was being read"
    if re.search("NoSuchBucket|ContainerNotFound|no bucket named", str(error)):
        return "no such bucket (spelling?)"
    if isinstance(error, ABSENT):
        return "no such bucket or object (spelling?)"
    if isinstance(error, REFUSED) and access.anonymous:
        return f"not public, or not there: give {CREDENTIALS[kind]} instead of dataset.storage.anonymous=true"
    if isinstance(error, REFUSED):
        return f"no permission, or not there: check {CREDENTIALS[kind]}; public data: dataset.storage.anonymous=true"
    if re.search(UNKNOWN, _first_line(error)):
        give = f"give {CREDENTIALS[kind]}, or for public data dataset.storage.anonymous=true"
        return f"no credentials: {give} ({_first_line(error)})"
    if "Content-Length" in str(error):
        return "the server does not say how many bytes there are (a Content-Encoding? store the shard without one)"
    if "non-partial" in str(error):
        return "the server cannot send a part of it, so what broke off cannot be resumed"
    if "error sending request" in str(error):
        return f"nobody answers; check the network, dataset.storage.endpoint and the environment ({_first_line(error)})"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    """Without the queries of URLs, which may hold a signature."""
    line = re.sub(r"^Generic \w+ error: ", "", str(error).strip().partition("\n")[0])
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", line)
