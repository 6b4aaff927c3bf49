"""CSV files of runs that may have been killed; large ones are kept as parquet beside them, to be read faster.

The copy needs pyarrow (``pip install asgd[parquet]``); without it the CSV file is read. It is used only for the very
file it was made from, known by size and time of change, and made only of a run that is over, whole or not at all.
Where the folder cannot be written to there is none.
"""

import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pandas as pd

LARGE = 4_000_000  # bytes
SOURCE = b"asgd.source"


def read(path: Path) -> pd.DataFrame:
    """A CSV file up to its last whole line: what comes after it is half a row of a run that was killed."""
    data = path.read_bytes()
    return pd.read_csv(io.BytesIO(data[: data.rfind(b"\n") + 1]))


def read_large(path: Path, over: bool) -> pd.DataFrame:
    """The same, by way of a parquet copy where that pays. ``over``: the run has ended, the file is complete."""
    state = path.stat()  # before it is read: a file that changes meanwhile is another one from then on
    if state.st_size < LARGE or not over or not has_parquet():
        return read(path)
    source = f"{state.st_size} {state.st_mtime_ns}".encode()
    copy = path.with_suffix(".parquet")
    table = copied(copy, source)
    if table is None:
        table = read(path)
        with suppress(OSError):
            keep(table, copy, source)
    return table


def has_parquet() -> bool:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        return False
    return True


def copied(copy: Path, source: bytes) -> pd.DataFrame | None:
    """The table, if the copy is whole and of this source."""
    from pyarrow import parquet

    try:
        if parquet.read_schema(copy).metadata.get(SOURCE) == source:
            return parquet.read_table(copy).to_pandas()
    except (OSError, ValueError):  # none there, or a torn one
        pass
    return None


def keep(table: pd.DataFrame, copy: Path, source: bytes) -> None:
    """Write the copy, so that others see the old one or the new one, never a part. OSError where that cannot be."""
    import pyarrow
    from pyarrow import parquet

    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata(content.schema.metadata | {SOURCE: source})
    handle, temporary = tempfile.mkstemp(prefix=f"{copy.name}.", suffix=".tmp", dir=copy.parent)
    os.close(handle)
    try:
        parquet.write_table(content, temporary, compression="lz4")
        os.replace(temporary, copy)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
