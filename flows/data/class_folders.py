"""People's own images: sources/folder/ with a subfolder for each class."""

import hashlib
from pathlib import Path

import numpy as np

from flows.data import fetch, image_file, labelled_arrays
from flows.data.image_file import SUFFIXES
from flows.data.source_images import ADDED, Images, fits_in_memory, naming_file, refuse_names, shown, split_off_test
from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project import paths
from flows.project.errors import InputError, counted


def folder(test: str | float, limits: Limits = DEFAULT_LIMITS) -> Images:
    """The dataset in sources/folder: a subfolder a class, or train/ and test/ with these, or images.npz."""
    root = paths.root() / "sources" / "folder"
    if not root.is_dir():
        raise InputError("sources/folder does not exist: make it, with one subfolder of images per class")
    if (root / ADDED).is_dir() and any(path.suffix.lower() in SUFFIXES for path in (root / ADDED).iterdir()):
        raise InputError(
            f"sources/folder/{ADDED} is where images are kept that were taken in: name the class otherwise"
        )
    if (root / "images.npz").is_file():
        if subfolders(root):
            raise InputError("sources/folder holds both images.npz and subfolders: keep one of the two")
        images = labelled_arrays.from_archive(root / "images.npz", test, limits)
    else:
        images = from_folders(root, test, limits)
    return images


def from_folders(root: Path, test: str | float, limits: Limits) -> Images:
    if test == "official":
        for split in ("train", "test"):
            if not (root / split).is_dir():
                raise InputError(
                    f"sources/folder/{split} does not exist, but data.folder.test is official: "
                    "make it, or set data.folder.test to a fraction such as 0.2"
                )
        class_names = classes_in(root / "train")
        if class_names != classes_in(root / "test"):
            odd = sorted(set(class_names) ^ set(classes_in(root / "test")))
            raise InputError(
                f"sources/folder/train and test must hold the same classes, but differ in {', '.join(odd)}"
            )
        train, held_out = image_files(root / "train", class_names), image_files(root / "test", class_names)
        images, provenance = decode_files([*train[0], *held_out[0]], root, limits)
        at = len(train[0])
        return Images(images[:at], train[1], images[at:], held_out[1], class_names, provenance)
    class_names = classes_in(root)
    if class_names == ["test", "train"]:
        raise InputError("sources/folder holds train/ and test/: set data.folder.test to official")
    files, labels = image_files(root, class_names)
    images, provenance = decode_files(files, root, limits)
    return split_off_test(images, labels, float(test), class_names, provenance)


def subfolders(parent: Path) -> list[str]:
    names = [path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    return sorted(name for name in names if parent / name != paths.root() / "sources" / "folder" / ADDED)


def classes_in(parent: Path) -> list[str]:
    names = subfolders(parent)
    if len(names) < 2:
        has = f'only one class, "{names[0]}"' if names else "no class folders"
        raise InputError(
            f"{shown(parent)} has {has}: a classifier needs one subfolder of images for each of two or more"
        )
    refuse_names(parent, names)
    return names


def image_files(parent: Path, class_names: list[str]) -> tuple[list[Path], np.ndarray]:
    """The image files, sorted within each class, and their labels, int64."""
    files, labels, others = [], [], []
    for label, name in enumerate(class_names):
        visible = sorted(path for path in (parent / name).iterdir() if not path.name.startswith("."))
        found = [path for path in visible if path.suffix.lower() in SUFFIXES]
        others += [path for path in visible if path.suffix.lower() not in SUFFIXES]
        if not found:
            raise InputError(f"class folder {shown(parent / name)} has no image ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        fetch.say(f"left out, by name no image: {shown(others[0])}{more}")
    return files, np.array(labels, np.int64)


def decode_files(files: list[Path], root: Path, limits: Limits) -> tuple[np.ndarray, list[dict]]:
    """The images, N×H×W×1 where all are grey, else N×H×W×3, and their provenance. All have to have one size."""
    sizes: dict[tuple[int, int], Path] = {}
    colour = False
    for file in files:  # headers only, so that mistakes are found before anything is decoded
        header = naming_file(file, image_file.header, file, limits)
        sizes.setdefault(header.size, file)
        colour |= not header.is_grey
        if len(sizes) > 1:
            (one, first), (other, second) = sizes.items()
            raise InputError(
                f"all images must have one size, but {shown(first)} is {one[0]}×{one[1]} "
                f"and {shown(second)} is {other[0]}×{other[1]} (width×height)"
            )
    [(width, height)] = sizes
    shape = (len(files), height, width, 3 if colour else 1)
    fits_in_memory(shape)
    images = np.empty(shape, np.uint8)
    listing, total = hashlib.sha256(), 0
    for index, file in enumerate(files):
        content = naming_file(file, image_file.content, file, limits)
        images[index] = naming_file(file, image_file.pixels, content, shape[1:], limits)
        listing.update(f"{hashlib.sha256(content).hexdigest()}  {file.relative_to(root).as_posix()}\n".encode())
        total += len(content)
    # One entry for all files: the SHA-256 of what `sha256sum` would print for them, in order.
    entry = {
        "file": counted(len(files), "image"),
        "from": "sources/folder",
        "bytes": total,
        "sha256": listing.hexdigest(),
    }
    return images, [entry]
