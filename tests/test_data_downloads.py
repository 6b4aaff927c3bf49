"""torchvision's own downloader, from a server on loopback; what it leaves is read by our code."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from asgd.data import sources
from asgd.models._torchvision import torchvision
from tests import layouts
from tests.conftest import free_port
from tests.test_data_sources import images_of, packed


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path):
    """(folder, address) of a web server."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(mirror, tmp_path, monkeypatch):
    """The rows and labels of an imitation, which torchvision takes for the original."""
    folder, address = mirror
    truth = layouts.cifar10(tmp_path)
    files = tmp_path / "cifar-10-batches-py"
    archive = layouts.tar(files, folder / "cifar-10-python.tar.gz")
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "url", f"{address}{archive.name}")
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, [[name, md5(files / name)] for name in names])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(files / "batches.meta")})
    return truth


def test_cifar10_is_downloaded_once(cifar10, mirror, tmp_path):
    rows, labels = cifar10
    source, root = "torchvision:CIFAR10", f"root={tmp_path}/root"
    read = packed(source, tmp_path / "out", root, "download=true")
    assert [read[f"{n:05d}"][1] for n in range(10)] == labels
    (mirror[0] / "cifar-10-python.tar.gz").unlink()
    assert packed(source, tmp_path / "again", root) == read
    from tests.test_data_sources import decoded

    assert all((decoded(read[f"{n:05d}"][0]) == image).all() for n, image in enumerate(images_of(rows)))


def test_fashion_mnist_brings_its_class_names(mirror, tmp_path, monkeypatch):
    folder, address = mirror
    _, labels = layouts.idx(folder)
    kind = torchvision.datasets.FashionMNIST
    monkeypatch.setattr(kind, "mirrors", [address])
    monkeypatch.setattr(kind, "resources", [(path.name, md5(path)) for path in sorted(folder.iterdir())])
    read = packed("torchvision:FashionMNIST", tmp_path / "out", f"root={tmp_path}/root", "download=true")
    assert [read[f"{n:05d}"][1] for n in range(5)] == labels.tolist()
    names = json.loads((tmp_path / "out/classes.json").read_text())
    assert (names[0], names[9], len(names)) == ("T-shirt/top", "Ankle boot", 10)


def find(name, root, download):
    return sources.find(f"torchvision:{name}", "train", None, None, root, download)


def test_what_is_missing_is_told_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"not in root=.*give download=true"):
        find("CIFAR10", str(tmp_path), False)
    with pytest.raises(ValueError, match="must be one of CIFAR10, CIFAR100"):
        find("Cifar", str(tmp_path), True)
    with pytest.raises(ValueError, match="give root=FOLDER"):
        find("CIFAR10", None, True)


@pytest.mark.parametrize("name, attribute", [("CIFAR10", "url"), ("FashionMNIST", "mirrors")])
def test_without_a_network_the_address_and_the_place_are_told(tmp_path, monkeypatch, name, attribute):
    address = f"http://127.0.0.1:{free_port()}/"
    monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, address if attribute == "url" else [address])
    with pytest.raises(ValueError) as caught:
        find(name, str(tmp_path), True)
    folder = {"CIFAR10": "cifar-10-batches-py", "FashionMNIST": "FashionMNIST/raw"}[name]
    assert all(part in str(caught.value) for part in ("download failed", address, f"source={tmp_path}/{folder}"))
