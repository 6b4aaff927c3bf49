"""Data sets that torchvision can download: its own code fetches and checks the files, ours then reads them."""

from pathlib import Path
from urllib.error import URLError

SCHEME = "torchvision:"
FOLDERS = {  # where torchvision puts them, below root
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
    "KMNIST": "KMNIST/raw",
}


def fetch(name: str, root: str | None, download: bool) -> tuple[Path, list[str]]:
    """(folder, class names) of a data set below ``root``, downloaded if wanted; ValueError if it is not there."""
    if name not in FOLDERS:
        raise ValueError(f"source={SCHEME}{name}: must be one of {', '.join(FOLDERS)}; give others as files")
    if root is None:
        raise ValueError(f"source={SCHEME}{name}: give root=FOLDER, where the files are or are to be kept")
    from asgd.models._torchvision import torchvision  # takes a second, and is needed for this only

    dataset = getattr(torchvision.datasets, name)
    try:
        opened = dataset(str(Path(root).expanduser()), train=True, download=download)
    except (URLError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(_remedy(dataset, name, root, download, error)) from error
    return Path(root).expanduser() / FOLDERS[name], list(opened.classes)


def _remedy(dataset: type, name: str, root: str, download: bool, error: Exception) -> str:
    if not download:
        return f"source={SCHEME}{name}: not in root={root} ({error}); give download=true"
    folder = Path(root) / FOLDERS[name]
    return (
        f"source={SCHEME}{name}: the download failed ({error}); fetch {', '.join(addresses(dataset))} by hand "
        f"where there is a network, put the files (of a tar: what is in it) into {folder} and give source={folder}"
    )


def addresses(dataset: type) -> list[str]:
    """Where the files of a data set are on the net."""
    if hasattr(dataset, "url"):
        return [dataset.url]
    return [dataset.mirrors[0] + file for file, _ in dataset.resources]
