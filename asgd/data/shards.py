"""Data sets of labelled images: WebDataset shards from anywhere, or a folder of image files."""

from collections.abc import Callable, Sequence

from asgd.data.collection import Files, Tars
from asgd.data.images import Images
from asgd.data.storage import Storage

Urls = str | Sequence[str] | None


class Shards(Images):
    """CIFAR, Tiny-ImageNet, ImageNet and your own, in shards of ``KEY.jpg|jpeg|png`` and ``KEY.cls``.

    ``storage`` makes what opens them; ``cache_dir`` and ``cache_gb`` say where copies of remote ones are kept.
    """

    def __init__(
        self, url: Urls, val_url: Urls, *arguments, storage: Callable[..., Storage] = Storage,
        cache_dir: str | None = None, cache_gb: float | None = None, **keywords,
    ):  # fmt: skip
        storage = storage(cache_dir=cache_dir, cache_gb=cache_gb)
        train, val = Tars(storage, url, "dataset.url"), Tars(storage, val_url, "dataset.val_url")
        super().__init__(train, val, *arguments, **keywords)


class Folder(Images):
    """Image files in one subfolder for each class; labels follow the order of the subfolders' names."""

    def __init__(self, path: str | None, val_path: str | None, *arguments, **keywords):
        super().__init__(Files(path, "dataset.path"), Files(val_path, "dataset.val_path"), *arguments, **keywords)

    def check(self) -> None:
        train, val = self.train.collection, self.val.collection
        known, judged = {*train.classes}, {*val.classes}
        if unknown := sorted(judged - known):
            raise ValueError(f"dataset.val_path={val.path}: {unknown[0]} is no class of dataset.path={train.path}")
        if missing := sorted(known - judged):
            raise ValueError(f"dataset.val_path={val.path}: has no subfolder {missing[0]}, so labels would not agree")
        super().check()
