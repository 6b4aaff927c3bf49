"""What the command that makes shards writes, and what is in it."""

from pathlib import Path

from asgd import words
from asgd.data import pack, tar
from asgd.data.storage import Storage

CUT = ("shard_samples=5",)  # 12 samples: shards of 5, 5 and 2


def packed(source, out, *options: str) -> dict[str, bytes]:
    """The files that are there once the command has ended."""
    pack.main(words.parse(pack.Options, [f"source={source}", f"out={out}", *options]))
    return contents(Path(out))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def keys(shard) -> list[str]:
    return [sample.key for sample in tar.samples(Storage(), str(shard))]


def all_keys(folder: Path) -> list[str]:
    return [key for shard in sorted(folder.glob("*.tar")) for key in keys(shard)]
