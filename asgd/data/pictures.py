"""Which picture is of which class: folders with one subfolder per class, or flat ones with a mapping."""

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from posixpath import basename, splitext

from asgd.data.trees import Tree, holding, only_folder, read

IMAGES = (".jpg", ".jpeg", ".png")
OTHERS = (".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".avif", ".heic", ".ppm")
FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
SHOWN = 5  # examples in a message


@dataclass
class Listing:
    """Pictures in the order of their paths: ``keys[i]`` and ``labels[i]`` of ``paths[i]``; ``classes`` by label."""

    classes: list[str]
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def listed(tree: Tree, split: str, names: list[str] | None, mapping: str | None) -> Listing:
    """The labelled pictures of the split; ValueError for what cannot be meant."""
    top = top_of(tree)
    base = base_of(tree, top, split)
    classes = names or listed_classes(tree) or (sibling_classes(tree, top) if split == "val" else None)
    text = mapping_text(tree, base, mapping)
    found = by_folder(tree, base) if text is None else by_mapping(tree, base, text, classes)
    return labelled(found, classes or sorted({name for _, name in found}), note_others(tree, base))


def top_of(tree: Tree) -> str:
    """The folder in which all lies, as archives have it; the top itself where that is a class or a split."""
    shallow = any(path.count("/") <= 1 and is_image(path) for path in tree.files)
    top = only_folder(tree)
    return "" if shallow or top[:-1] in chain(*FOLDERS.values()) else top


def base_of(tree: Tree, top: str, split: str) -> str:
    """Where the split's pictures are: its own folder if there is one."""
    return next((f"{top}{name}/" for name in FOLDERS[split] if f"{top}{name}" in tree.folders), top)


def listed_classes(tree: Tree) -> list[str] | None:
    """The lines of Tiny-ImageNet's ``wnids.txt``, which are its classes in label order."""
    folder = holding(tree, "wnids.txt")
    return None if folder is None else read(tree, f"{folder}wnids.txt").decode().split()


def sibling_classes(tree: Tree, top: str) -> list[str] | None:
    """The class folders of the training set beside a validation set, which may lack some."""
    train = base_of(tree, top, "train")
    return None if train == top else sorted(subfolders(tree, train)) or None


def mapping_text(tree: Tree, base: str, mapping: str | None) -> str | None:
    """The mapping that was given, or Tiny-ImageNet's ``val_annotations.txt``."""
    if mapping is not None:
        try:
            return Path(mapping).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"mapping={mapping}: cannot be read ({error})") from error
    path = f"{base}val_annotations.txt"
    return read(tree, path).decode() if path in tree.files else None


def by_folder(tree: Tree, base: str) -> dict[tuple[str, str], str]:
    """{(path, class): key} of the pictures in ``CLASS/`` or ``CLASS/images/``."""
    found, empty = {}, subfolders(tree, base)
    for path in images(tree, base):
        parts = path[len(base) :].split("/")
        if len(parts) == 1:
            raise ValueError(
                f"{tree.name}: {path} lies in no class folder; one folder per class is expected in {shown(tree, base)} "
                "(for a flat folder give mapping=FILE with lines of file name and class)"
            )
        if len(parts) > 2 and parts[1:-1] != ["images"]:
            raise ValueError(
                f"{tree.name}: {path} lies too deep; pictures are expected in {base}CLASS/; "
                f"is source={tree.name}/{base}{parts[0]} meant, or another split?"
            )
        empty.discard(parts[0])
        found[path, parts[0]] = key(f"{parts[0]}/{parts[-1]}")
    if not found:
        raise ValueError(f"{tree.name}: no pictures ({', '.join(IMAGES)}) in folders of {shown(tree, base)}")
    if empty:
        raise ValueError(f"{tree.name}: no pictures in {some(empty)} of {shown(tree, base)}; fill or remove")
    return found


def by_mapping(tree: Tree, base: str, text: str, classes: list[str] | None) -> dict[tuple[str, str], str]:
    """{(path, class): key} of the pictures of a flat folder, or of an ``images`` folder in it."""
    wanted = parsed(text, classes)
    found = {}
    for path in images(tree, base):
        stem = splitext(basename(path))[0]
        if stem not in wanted:
            raise ValueError(f"{tree.name}: {path}: the mapping has no class for it; add a line or remove the picture")
        found[path, wanted.pop(stem)] = key(f"{basename(path)}")
    if not found:
        raise ValueError(f"{tree.name}: no pictures ({', '.join(IMAGES)}) in {shown(tree, base)}")
    if wanted:
        raise ValueError(f"{tree.name}: {len(wanted)} pictures of the mapping are not there: {some(wanted)}")
    return found


def parsed(text: str, classes: list[str] | None) -> dict[str, str]:
    """{file name without suffix: class} of lines of both, with space, tab or comma between; more columns are allowed.

    Classes are names, or labels 0, 1, 2 ... where names are known; a header is left out.
    """
    rows = [columns(line) for line in text.splitlines() if line.strip()]
    if rows and rows[0][0].lower() in ("imageid", "filename", "file", "image"):
        rows = rows[1:]
    if not rows or min(map(len, rows)) < 2:
        raise ValueError("the mapping must have lines of a file name and a class")
    wanted = {splitext(basename(row[0]))[0]: row[1] for row in rows}
    if len(wanted) != len(rows):
        raise ValueError("the mapping names a picture twice")
    numbers = all(name.isdigit() for name in wanted.values()) and not set(wanted.values()) <= set(classes or ())
    return {stem: by_label(int(label), classes) for stem, label in wanted.items()} if numbers else wanted


def columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.replace(",", " ").split()


def by_label(label: int, classes: list[str] | None) -> str:
    """The class that a mapping means by a number; ValueError where names are not known, or too few."""
    if classes is None or label >= len(classes):
        known = f"{len(classes)} classes are known" if classes else "no names are known"
        raise ValueError(f"the mapping has the label {label}, and {known}; give classes=FILE with the names in order")
    return classes[label]


def labelled(found: dict[tuple[str, str], str], classes: list[str], notes: list[str]) -> Listing:
    labels = {name: label for label, name in enumerate(classes)}
    present = {name for _, name in found}
    if unknown := present - set(labels):
        raise ValueError(f"no such class: {some(unknown)}; the {len(labels)} classes are {some(labels)} (classes=FILE)")
    if len(classes) < 2:
        raise ValueError(f"only one class, {classes[0]}; give the folder that holds all class folders as source=")
    if absent := set(labels) - present:
        notes = [*notes, f"no pictures of {len(absent)} of {len(labels)} classes: {some(absent)}"]
    listing, owner = Listing(classes, notes=notes), {}
    for (path, name), sample in sorted(found.items()):
        if (other := owner.setdefault(sample, path)) != path:
            raise ValueError(f"{other} and {path} have the same key {sample}; rename or remove one")
        listing.paths.append(path)
        listing.keys.append(sample)
        listing.labels.append(labels[name])
    return listing


def images(tree: Tree, base: str):
    """The pictures below a folder; ValueError for those that are of no kind that shards may hold."""
    for path in tree.files:
        if path.startswith(base) and is_image(path):
            yield path
        elif path.startswith(base) and path.lower().endswith(OTHERS):
            raise ValueError(f"{tree.name}: {path}: must be JPEG or PNG; convert or remove it")


def is_image(path: str) -> bool:
    return path.lower().endswith(IMAGES)


def note_others(tree: Tree, base: str) -> list[str]:
    others = [path for path in tree.files if path.startswith(base) and not is_image(path)]
    return [f"{len(others)} other files are left out: {some(others)}"] if others else []


def subfolders(tree: Tree, base: str) -> set[str]:
    """The names of the folders directly below."""
    below = [path[len(base) :] for path in tree.folders if path.startswith(base)]
    return {path for path in below if path and "/" not in path}


def key(path: str) -> str:
    """The sample's key: the path without its suffix; further dots would be taken for suffixes."""
    folder, slash, name = splitext(path)[0].rpartition("/")
    return f"{folder}{slash}{name.replace('.', '_')}"


def shown(tree: Tree, base: str) -> str:
    return base or "the top folder"


def some(names) -> str:
    """A few of the names, for a message."""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
