"""A file read with an eye on its checksum."""

import hashlib
import io
from typing import BinaryIO

from asgd.data.errors import DataError


def checked(file: BinaryIO, url: str, sha256: str | None) -> BinaryIO:
    """The file itself, or with a checksum (hexadecimal) a stream of it that ends in a DataError if it is not right."""
    return file if sha256 is None else _Checked(file, url, sha256.lower())


class _Checked(io.BufferedIOBase):
    def __init__(self, file: BinaryIO, url: str, sha256: str):
        self._file, self._url, self._expected, self._digest = file, url, sha256, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        block = self._file.read(size)
        self._digest.update(block)
        ended = size is None or size < 0 or len(block) < size
        if ended and self._digest.hexdigest() != self._expected:
            raise DataError(f"{self._url}: damaged: its SHA-256 is {self._digest.hexdigest()}, not {self._expected}")
        return block

    def close(self) -> None:
        self._file.close()
        super().close()
