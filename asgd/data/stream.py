"""An object of a store as one forward stream of bytes: resumed where it broke off, whole and right, or an error.

One long request per object; when it breaks, the next one asks for the rest of the same version, so every byte comes
exactly once. The last bytes are handed out only when their number, and the checksum where there is one, are right.
"""

import asyncio
import hashlib
import logging
import re
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import datetime

import obstore

from asgd.data.clients import Access, Patience, cause
from asgd.data.errors import DataError
from asgd.data.urls import scheme, split

CHUNK = 1 << 20  # bytes asked of the client at a time
SMALL_CHUNK = 1  # after a failure: what comes before the next one shall not be lost

log = logging.getLogger(__name__)
_no_md5: set[str] = set()  # stores where an ETag has looked like an MD5 and was none


class RemoteObject:
    """One object of a store, to be read once; ``meta`` (obstore's) is what the first answer says of it.

    ``sha256`` is what the content must have; without it the ETag is taken, where that is an MD5.
    """

    def __init__(self, url: str, access: Access, retry_seconds: float, sha256: str | None = None):
        self.url, self.meta, self._offset, self._sha256 = url, None, 0, sha256
        self._access, self._retry_seconds, self._patience = access, retry_seconds, Patience(retry_seconds)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes; DataError, with the last of them held back, unless all came and the checksum is right."""
        digest = hashlib.sha256() if self._sha256 else hashlib.md5(usedforsecurity=False)
        async for chunk in self._resumed():
            digest.update(chunk)
            if self._offset >= self.meta["size"]:
                await self._verify(digest.hexdigest())
            yield chunk
        if not self.meta["size"]:  # so it says
            await self._verify(digest.hexdigest())

    async def _resumed(self) -> AsyncIterator[bytes]:
        """The bytes, each exactly once, in as many requests as it takes."""
        while self.meta is None or self._offset < self.meta["size"]:
            try:
                async for chunk in await self._rest():
                    self._offset += len(chunk)
                    self._patience.progress()
                    yield chunk
                if self._offset < self.meta["size"]:
                    raise OSError("the body ended early")
            except DataError:
                raise
            except Exception as error:
                await asyncio.sleep(self._pause(error))

    async def _rest(self) -> AsyncIterator[bytes]:
        """The answer to one request for all that is missing."""
        client, path = self._access.client(self.url)
        answer = await obstore.get_async(client, path, options=self._options())
        if self.meta is None:
            self.meta = answer.meta
        if identity(answer.meta) != identity(self.meta):
            raise self._error("the object was replaced while it was being read")
        if answer.range[0] != self._offset:
            raise OSError(f"bytes from {self._offset} on were asked for, the answer begins at {answer.range[0]}")
        return answer.stream(min_chunk_size=SMALL_CHUNK if self._patience.failures else CHUNK)

    def _options(self) -> dict:
        """From the first byte that is missing, of the same version (on S3 that by ETag needs no further permission)."""
        options = {"range": {"offset": self._offset}} if self._offset else {}
        if self.meta is None:
            return options
        if scheme(self.url) == "gs" and self.meta["version"]:
            return options | {"version": self.meta["version"]}
        strong = self.meta["e_tag"] and not self.meta["e_tag"].startswith("W/")
        return options | ({"if_match": self.meta["e_tag"]} if strong else {})

    def _pause(self, error: Exception) -> float:
        try:
            seconds = self._patience.pause(error)
        except Exception:
            gone = isinstance(error, FileNotFoundError) and self.meta is not None
            what = "the object was replaced or deleted while it was being read" if gone else None
            raise self._error(what or cause(error, self.url, self._access)) from error
        log.warning("%s", self._error(f"{cause(error, self.url, self._access)}; trying again"))
        return seconds

    def _error(self, what: str) -> DataError:
        whole = f" of {self.meta['size']}" if self.meta else ""
        return DataError(f"{self.url}: at byte {self._offset}{whole}: {what}")

    async def _verify(self, digest: str) -> None:
        store = split(self.url)[0]
        if self._offset != self.meta["size"]:
            raise self._error("more bytes came than the object has")
        expected = (self._sha256 or "").lower() or md5(self.meta["e_tag"])
        if expected in (None, digest) or (store in _no_md5 and not self._sha256):
            return
        kind = "SHA-256" if self._sha256 else "MD5"
        if self._sha256 or scheme(self.url) == "gs" or await self._digest_again() != digest:
            hint = " (or is it stored with a Content-Encoding, and unpacked?)" if scheme(self.url) == "gs" else ""
            raise self._error(f"the bytes were changed on their way: their {kind} is {digest}, not {expected}{hint}")
        _no_md5.add(store)
        log.warning("%s: its ETag looks like an MD5 and is none; ETags of its store are no longer compared", self.url)

    async def _digest_again(self) -> str:
        """The MD5 of a second reading: what is the same twice is what the store has, whatever its ETag looks like.

        ETags of S3 objects under KMS encryption, and of some web servers, are 32 hexadecimal digits but no MD5.
        """
        again, digest = RemoteObject(self.url, self._access, self._retry_seconds), hashlib.md5(usedforsecurity=False)
        again.meta = self.meta
        async for chunk in again._resumed():
            digest.update(chunk)
        return digest.hexdigest()


def identity(meta: dict) -> tuple[str | datetime, str | None, int]:
    """What changes when an object is replaced."""
    return meta["e_tag"] or meta["last_modified"], meta["version"], meta["size"]


def md5(e_tag: str | None) -> str | None:
    """The MD5, in hexadecimal, that an ETag states: 32 digits (GCS, S3 without parts) or 16 bytes in base64."""
    stated = (e_tag or "").strip('"')
    if re.fullmatch("[0-9a-fA-F]{32}", stated):
        return stated.lower()
    return b64decode(stated).hex() if re.fullmatch("[A-Za-z0-9+/]{22}==", stated) else None
