"""``python -m asgd.data.pack``: write a data set as WebDataset shards with an index; see docs/data.md."""

import errno
from dataclasses import dataclass

from asgd import words
from asgd.data import destination, sources
from asgd.data.index import Entry
from asgd.data.packing import Packing, Shape
from asgd.data.sources import Source

USAGE = "python -m asgd.data.pack source=FOLDER out=FOLDER [split=val] [shard_mb=100] ..."
SAME = "run the same command again to go on"


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    source: str = words.option("the data set: a folder or archive (docs/data.md), or torchvision:CIFAR10 and the like")
    out: str = words.option("folder or URL (gs://, s3://, az://) for the shards")
    split: str = words.option("train or val", default="train")
    prefix: str | None = words.option("shards are PREFIX-000000.tar ...; null: the split's name", default=None)
    shard_mb: float | None = words.option("a shard's largest size in 10^6 bytes; null: none", default=100.0)
    shard_samples: int | None = words.option("a shard's largest number of samples; null: none", default=None)
    seed: int | None = words.option("of the order of the samples; null: the source's order", default=0)
    classes: str | None = words.option("names in label order: .json, a file with one a line, or a,b,c", default=None)
    mapping: str | None = words.option("for flat folders: a file with lines of file name and class", default=None)
    root: str | None = words.option("torchvision's folder", default=None)
    download: bool = words.option("let torchvision download into root", default=False)
    verify: bool = words.option("read the header of every picture before anything is written", default=True)

    def __post_init__(self):
        if self.split not in ("train", "val"):
            raise ValueError(f"split={self.split}: must be train or val")


def main(given: Options) -> None:
    """Write the shards, all or those that are missing."""
    prefix = given.split if given.prefix is None else given.prefix
    shape = Shape(given.split, prefix, given.shard_mb, given.shard_samples, given.seed)
    source = sources.find(given.source, given.split, given.classes, given.mapping, given.root, given.download)
    target = destination.at(given.out)
    target.prepare()
    with target.lock(prefix):
        report(source, f"{target}/{prefix}", pack(Packing(source, target, shape), given.verify))


def pack(packing: Packing, verify: bool) -> dict[str, Entry]:
    try:
        return packing.run(verify)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"{packing.target}: the disk is full; make room, then {SAME}") from error
        raise


def report(source: Source, start: str, entries: dict[str, Entry]) -> None:
    """Say what there is now, and what to give as ``dataset.url``."""
    for note in source.notes:
        print(f"note: {note}")
    megabytes = sum(entry.bytes for entry in entries.values()) / 1e6
    print(f"{len(source.keys)} samples of {len(source.classes)} classes in {len(entries)} shards, {megabytes:.1f} MB")
    numbers = "000000" if len(entries) == 1 else f"{{000000..{len(entries) - 1:06d}}}"
    print(f"{start}-{numbers}.tar")


if __name__ == "__main__":
    words.main(Options, main, USAGE, SAME)
