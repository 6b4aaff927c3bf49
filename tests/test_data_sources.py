"""Data sets in the layouts of their authors become the right pictures, labels and class names."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from asgd import words
from asgd.data import pack, sources, tar
from asgd.data.storage import Storage
from tests import layouts
from tests.layouts import COLOURS, TINY, class_folders, jpeg, put


def packed(source, out, *options: str) -> dict[str, tuple[bytes, int]]:
    """What the command writes: {key: (picture, label)}."""
    pack.main(words.parse(pack.Options, [f"source={source}", f"out={out}", *options]))
    storage = Storage()
    read = {}
    for shard in storage.expand(f"{out}/*.tar", "url"):
        for sample in tar.samples(storage, shard):
            files = dict(sample.files)
            label = int(files.pop("cls"))
            assert sample.key not in read and len(files) == 1
            read[sample.key] = (*files.values(), label)
    return read


def names(out) -> list[str]:
    return json.loads((out / "classes.json").read_text())


def decoded(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def folder_bytes(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_class_folders_keep_every_byte_and_are_labelled_in_alphabetical_order(tmp_path):
    contents = class_folders(tmp_path / "data", classes=("owl", "cat", "dog"))
    labels = {"cat": 0, "dog": 1, "owl": 2}
    expected = {key: (content, labels[key.partition("/")[0]]) for key, content in contents.items()}
    assert packed(tmp_path / "data", tmp_path / "out") == expected
    assert names(tmp_path / "out") == ["cat", "dog", "owl"]


def test_the_splits_own_folder_is_taken_and_a_class_that_it_lacks_keeps_its_label(tmp_path):
    class_folders(tmp_path / "data/train")
    class_folders(tmp_path / "data/val", classes=("dog", "owl"), each=2, first=50)
    assert len(packed(tmp_path / "data", tmp_path / "train")) == 12
    read = packed(tmp_path / "data", tmp_path / "val", "split=val")
    assert {key: label for key, (_, label) in read.items()} == {"dog/050": 1, "dog/052": 1, "owl/051": 2, "owl/053": 2}
    assert names(tmp_path / "val") == ["cat", "dog", "owl"]


@pytest.mark.parametrize("top", ["", "set"])
def test_a_zip_is_read_without_unpacking_and_gives_the_same_shards(tmp_path, top):
    class_folders(tmp_path / "data" / top)
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "data")
    packed(tmp_path / "data" / top, tmp_path / "folder")
    packed(archive, tmp_path / "zip")
    assert folder_bytes(tmp_path / "zip") == folder_bytes(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_tiny_imagenet_is_labelled_by_wnids_txt(tmp_path, kind):
    source = layouts.tiny_imagenet(tmp_path)
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "tiny"), "zip", tmp_path, "tiny-imagenet-200")
    train = packed(source, tmp_path / "out")
    expected = {f"{w}/{w}_{n}": (jpeg(10 * label + n), label) for label, w in enumerate(TINY) for n in range(3)}
    assert train == expected
    shutil.rmtree(tmp_path / "out")
    assert packed(source, tmp_path / "out", "split=val") == {f"val_{n}": (jpeg(100 + n), n) for n in range(3)}
    assert names(tmp_path / "out") == list(TINY)


MAPPINGS = {
    "kaggle.csv": "ImageId,PredictionString\n"
    "ILSVRC2012_val_00000001,n03 1 2 3 4 n03 5 6 7 8\nILSVRC2012_val_00000002,n01 1 2 3 4\n",
    "names.txt": "ILSVRC2012_val_00000002.JPEG n01\nILSVRC2012_val_00000001.JPEG n03\n",
    "tabs.tsv": "val/ILSVRC2012_val_00000001.JPEG\tn03\nval/ILSVRC2012_val_00000002.JPEG\tn01\n",
    "labels.txt": "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n",
}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_flat_imagenet_validation_set_is_labelled_by_a_mapping(tmp_path, mapping):
    class_folders(tmp_path / "data/train", classes=("n01", "n02", "n03"))
    for number in (1, 2):
        put(tmp_path / f"data/val/ILSVRC2012_val_0000000{number}.JPEG", jpeg(number))
    path = put(tmp_path / mapping, MAPPINGS[mapping])
    read = packed(tmp_path / "data", tmp_path / "out", "split=val", f"mapping={path}")
    assert read == {"ILSVRC2012_val_00000001": (jpeg(1), 2), "ILSVRC2012_val_00000002": (jpeg(2), 0)}


def test_the_order_of_the_classes_can_be_given(tmp_path):
    contents = class_folders(tmp_path / "data")
    for number, given in enumerate(["owl,cat,dog", put(tmp_path / "c.txt", "owl\ncat\ndog\n")]):
        read = packed(tmp_path / "data", tmp_path / f"out{number}", f"classes={given}")
        order = ["owl", "cat", "dog"]
        assert {key: label for key, (_, label) in read.items()} == {k: order.index(k.split("/")[0]) for k in contents}


def test_the_content_decides_on_the_suffix(tmp_path):
    class_folders(tmp_path / "data")
    put(tmp_path / "data/cat/wrong.v2.JPEG", jpeg(77, kind="PNG"))
    pack.main(words.parse(pack.Options, [f"source={tmp_path / 'data'}", f"out={tmp_path / 'out'}"]))
    (shard,) = (tmp_path / "out").glob("*.tar")
    files = {sample.key: dict(sample.files) for sample in tar.samples(Storage(), str(shard))}
    assert files["cat/wrong_v2"] == {"png": jpeg(77, kind="PNG"), "cls": b"0"}
    assert set(files["cat/000"]) == {"jpg", "cls"}


def images_of(rows: np.ndarray) -> np.ndarray:
    """CIFAR's rows as its description has them: 1024 red, 1024 green, 1024 blue, row by row."""
    return np.stack([rows[:, :1024], rows[:, 1024:2048], rows[:, 2048:]], -1).reshape(-1, 32, 32, 3)


@pytest.mark.parametrize("kind", ["py", "bin", "tar.gz"])
def test_cifar10_in_all_its_forms(tmp_path, kind):
    rows, labels = layouts.cifar10(tmp_path)
    source = tmp_path / f"cifar-10-batches-{kind}"
    if kind == "tar.gz":
        source = layouts.tar(tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")
    read = packed(source, tmp_path / "out")
    assert [read[f"{n:05d}"][1] for n in range(10)] == labels and len(read) == 10
    assert np.array_equal([decoded(read[f"{n:05d}"][0]) for n in range(10)], images_of(rows))
    assert names(tmp_path / "out") == COLOURS
    test = packed(source, tmp_path / "val", "split=val")
    assert np.array_equal([decoded(test[f"{n:05d}"][0]) for n in range(2)], images_of(layouts.pixels(5, 2)))


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar100_has_its_fine_labels(tmp_path, kind):
    rows, labels = layouts.cifar100(tmp_path)
    read = packed(tmp_path / f"cifar-100-{kind}", tmp_path / "out")
    assert [read[f"{n:05d}"][1] for n in range(4)] == labels
    assert np.array_equal([decoded(read[f"{n:05d}"][0]) for n in range(4)], images_of(rows))
    assert names(tmp_path / "out") == ["apple", "aquarium_fish", "baby", "bear"]


def test_the_same_cifar10_from_pickles_and_binaries_gives_the_same_shards(tmp_path):
    layouts.cifar10(tmp_path)
    for kind in ("py", "bin"):
        packed(tmp_path / f"cifar-10-batches-{kind}", tmp_path / kind)
    assert folder_bytes(tmp_path / "py") == folder_bytes(tmp_path / "bin")


def test_a_data_set_is_not_picked_out_of_a_folder_of_several(tmp_path):
    layouts.cifar10(tmp_path / "downloads")
    with pytest.raises(ValueError, match="no pictures"):
        sources.find(str(tmp_path / "downloads"), "train", None, None, None, False)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_is_grey(tmp_path, zipped):
    images, labels = layouts.idx(tmp_path / "data", zipped)
    given = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    read = packed(tmp_path / "data", tmp_path / "out", f"classes={given}")
    assert [read[f"{n:05d}"][1] for n in range(5)] == labels.tolist()
    assert np.array_equal([decoded(read[f"{n:05d}"][0]) for n in range(5)], images)
    assert names(tmp_path / "out") == given.split(",")
    test = packed(tmp_path / "data", tmp_path / "val", "split=val")
    assert [test[f"{n:05d}"][1] for n in range(5)] == labels.tolist()[::-1]


class Trap:
    """Runs code when a plain pickle reader reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    layouts.cifar10(tmp_path)
    path, mark = tmp_path / "cifar-10-batches-py/data_batch_2", tmp_path / "ran"
    put(path, pickle.dumps({"data": Trap(mark), "labels": []}, 2))
    with pytest.raises(ValueError, match=r"data_batch_2: names io\.open"):
        sources.find(str(path.parent), "train", None, None, None, False)
    assert not mark.exists()
    pickle.loads(path.read_bytes())["data"].close()
    assert mark.exists()  # the control: the usual reader runs it


def break_batch(folder):
    (folder / "cifar-10-batches-bin/data_batch_3.bin").write_bytes(b"\0" * 3072)


def lose_batch(folder):
    (folder / "cifar-10-batches-bin/data_batch_3.bin").unlink()


def wrong_label(folder):
    (folder / "cifar-10-batches-bin/data_batch_3.bin").write_bytes(bytes([3]) * 3073)


@pytest.mark.parametrize(
    "damage, message",
    [(break_batch, "data_batch_3.bin.*3072"), (lose_batch, "missing"), (wrong_label, r"0\.\.3 for 3")],
)
def test_damaged_arrays_are_named(tmp_path, damage, message):
    layouts.cifar10(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        sources.find(str(tmp_path / "cifar-10-batches-bin"), "train", None, None, None, False)


def test_a_truncated_idx_file_is_named(tmp_path):
    layouts.idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: 3919 values for shape \[5, 28, 28\]"):
        sources.find(str(tmp_path), "train", None, None, None, False)
