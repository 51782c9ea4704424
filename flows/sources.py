"""Decodes each dataset's published files to arrays, with its test images apart.

`sources/<dataset>/source.yaml` says where the bytes come from and what they hash to; `sources/folder` holds the user's
own images.
"""

import gzip
import hashlib
import math
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

from flows import fetch, image_file, masked, npz, project
from flows.foreign_text import printable
from flows.image_file import SUFFIXES
from flows.params import BY_DEFAULT, Limits
from lightning_modules.errors import InputError, counted, unknown

# The test images of a dataset without an official test split: the same ones whatever `seed` in params.yaml is.
TEST_SEED = 20_240_229
BLOBS_SEED = 7
MOST_CLASSES = 100_000
ADDED = "added"  # below sources/<dataset>/: images that were taken in, see flows/added.py


@dataclass(frozen=True)
class Images:
    """A dataset as published: nothing normalised, nothing shuffled.

    Images are uint8, N×H×W×C; labels are int64, N, indices into `class_names`. `provenance` has one entry a source
    file: file, from, bytes and sha256, the same wherever the bytes were taken from.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]
    provenance: list[dict]


def read(dataset: str, test: str | float, limits: Limits = BY_DEFAULT) -> Images:
    """Fetches, verifies and decodes a dataset.

    test: "official", or the fraction of every class that is set aside.
    limits: for the user's own images.

    Raises:
        InputError: a file cannot be had or is not what it should be, or the images cannot make a classifier.
    """
    if dataset not in READERS:
        raise unknown("dataset", dataset, READERS)
    return folder(test, limits) if dataset == "folder" else READERS[dataset](test)


def set_aside(labels: np.ndarray, fraction: float, seed: int, class_names: list[str], purpose: str) -> np.ndarray:
    """Sorted int64 indices of a random `fraction` of every class, the same for the same labels and seed.

    Raises:
        InputError: a class is too small to leave an image on both sides.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts):
        if count < 2:
            raise InputError(
                f'class "{name}" has {count} of the images that {purpose} is set aside from; '
                "it needs 2 or more, so that one stays on each side"
            )
    # Largest remainders: the total is right to the image, and no class is off by a whole one.
    shares = counts * fraction
    sizes = np.floor(shares).astype(int)
    lacking = round(len(labels) * fraction) - sizes.sum()
    sizes[np.argsort(sizes - shares, kind="stable")[:lacking]] += 1
    sizes = np.clip(sizes, 1, counts - 1)
    chosen = []
    for label, size in enumerate(sizes):
        generator = np.random.default_rng([seed, label])
        chosen.append(generator.permutation(np.flatnonzero(labels == label))[:size])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def describe(dataset: str) -> dict:
    """sources/<dataset>/source.yaml, which belongs to the project and is not checked further."""
    return project.read_yaml(project.root() / "sources" / dataset / "source.yaml")


# --- Embedded: no network --------------------------------------------------------------------------------------------


def digits(test: float) -> Images:
    """scikit-learn's 1,797 digits, 8×8×1. Their grey levels 0..16 are spread over 0..255."""
    # Read where it lies: importing scikit-learn, and SciPy with it, would take longer than all else here.
    [package] = find_spec("sklearn").submodule_search_locations
    file = Path(package, "datasets", "data", "digits.csv.gz")
    content = file.read_bytes()
    rows = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",")
    levels, labels = rows[:, :-1], rows[:, -1]
    images = np.rint(levels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    provenance = [{"file": file.name, "from": "scikit-learn"} | size_and_hash(content)]
    return carve(images, labels.astype(np.int64), test, describe("digits")["class_names"], provenance)


def blobs(test: float) -> Images:
    """2,000 points of ten 2-D Gaussians on a circle, as images of 1×2×1: two grey levels."""
    generator = np.random.default_rng(BLOBS_SEED)
    labels = generator.permutation(np.arange(2000) % 10)
    angles = 2 * np.pi * labels / 10
    points = 128 + 90 * np.stack([np.cos(angles), np.sin(angles)], 1) + 13 * generator.standard_normal((2000, 2))
    images = np.clip(np.rint(points), 0, 255).astype(np.uint8).reshape(-1, 1, 2, 1)
    provenance = [{"file": "blobs", "from": "flows/sources.py, generated"} | size_and_hash(images.tobytes())]
    return carve(images, labels.astype(np.int64), test, describe("blobs")["class_names"], provenance)


def carve(images: np.ndarray, labels: np.ndarray, test: float, class_names: list[str], provenance: list) -> Images:
    """Sets the test images aside where nobody has done so."""
    chosen = set_aside(labels, test, TEST_SEED, class_names, "the test split")
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return Images(images[rest], labels[rest], images[chosen], labels[chosen], class_names, provenance)


def size_and_hash(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


# --- Published archives, decoded by torchvision ----------------------------------------------------------------------


def mnist(test: str, dataset: str = "mnist", reader: str = "MNIST") -> Images:
    """28×28×1, 60,000 + 10,000 images."""
    source = describe(dataset)
    archives = [fetch.Archive(**entry) for entry in source["archives"]]
    with workspace() as scratch:
        for archive in archives:
            lay_out(scratch, archive.path.removesuffix(".gz"), gzip.decompress(fetch.read(archive)))
        (train_images, train_labels), (test_images, test_labels) = decode(reader, scratch)
    return Images(
        train_images[..., None], train_labels, test_images[..., None], test_labels, source["class_names"],
        [origin(archive, archive) for archive in archives],
    )  # fmt: skip


def fashion_mnist(test: str) -> Images:
    """28×28×1, 60,000 + 10,000 images."""
    return mnist(test, "fashion_mnist", "FashionMNIST")


def cifar10(test: str) -> Images:
    """32×32×3, 50,000 + 10,000 images."""
    source = describe("cifar10")
    whole = fetch.Archive(**source["archives"][0])
    parts = [fetch.Archive(**entry) for entry in source["members"]]
    with workspace() as scratch:
        for part, content in cifar10_files(whole, parts):
            lay_out(scratch, part.path, content)
        images, labels = decode_cifar10(scratch)
    at = 50_000
    return Images(
        images[:at], labels[:at], images[at:], labels[at:], source["class_names"],
        [origin(part, whole) for part in parts],
    )  # fmt: skip


def cifar10_files(whole: fetch.Archive, parts: list[fetch.Archive]) -> Iterator[tuple[fetch.Archive, bytes]]:
    """Unpacked, as a torchvision data folder mostly has them, or else out of the archive."""
    if not fetch.cache_file(whole).is_file():
        try:
            for part in parts:
                yield part, fetch.read(part)
            return
        except fetch.Absent:
            pass
    with fetch.stream(whole) as archive:
        yield from members(archive, parts)


def workspace() -> tempfile.TemporaryDirectory:
    """A private folder for one decoding. torchvision reads files by name and unpickles CIFAR's: laid out here, they
    are the very bytes that were verified, whatever happens to a mirror meanwhile."""
    project.state_folder().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="decode-", dir=project.state_folder())


def lay_out(scratch: str, path: str, content: bytes) -> None:
    file = Path(scratch, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def decode(reader: str, scratch: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of the training and of the test split."""
    from torchvision import datasets

    splits = [getattr(datasets, reader)(scratch, train=train, download=False) for train in (True, False)]
    return [(np.ascontiguousarray(split.data), np.asarray(split.targets, np.int64)) for split in splits]


def decode_cifar10(scratch: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the training split and, behind them, the test split."""
    from torchvision.datasets import CIFAR10

    images, labels = np.empty((60_000, 32, 32, 3), np.uint8), np.empty(60_000, np.int64)
    at = 0
    # A file at a time: torchvision's whole training split takes three times its size while it is put together.
    for file in (*CIFAR10.train_list, *CIFAR10.test_list):
        batch = type("Batch", (CIFAR10,), {"train_list": [file], "test_list": []})(scratch)
        here = slice(at, at + len(batch))
        images[here], labels[here] = batch.data, batch.targets
        at = here.stop
    return images, labels


def origin(file: fetch.Archive, published: fetch.Archive) -> dict:
    return {
        "file": file.path,
        "from": published.url and masked.address(published.url),
        "bytes": file.bytes,
        "sha256": file.sha256,
    }


def members(packed: BinaryIO, parts: list[fetch.Archive]) -> Iterator[tuple[fetch.Archive, bytes]]:
    """The named files of a .tar.gz, verified one by one. Nothing is unpacked to disk, so no name can lead elsewhere."""
    wanted = {part.path: part for part in parts}
    try:
        with tarfile.open(fileobj=packed, mode="r|gz") as archive:
            for entry in archive:
                if entry.name not in wanted:
                    continue
                part = wanted.pop(entry.name)
                if not entry.isreg() or entry.size != part.bytes:
                    raise InputError(f"{part.path} in the archive is no file of {part.bytes:,} bytes")
                found = archive.extractfile(entry).read()
                if hashlib.sha256(found).hexdigest() != part.sha256:
                    raise InputError(f"{part.path} in the archive has not the SHA-256 {part.sha256}")
                yield part, found
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"the archive cannot be unpacked: {error}") from None
    if wanted:
        raise InputError(f"the archive lacks {', '.join(sorted(wanted))}")


# --- The user's own images -------------------------------------------------------------------------------------------


def folder(test: str | float, limits: Limits = BY_DEFAULT) -> Images:
    """sources/folder: one subfolder per class, train/ and test/ with one per class each, or images.npz."""
    root = project.root() / "sources" / "folder"
    if not root.is_dir():
        raise InputError("sources/folder does not exist: make it, with one subfolder of images per class")
    if (root / ADDED).is_dir() and any(path.suffix.lower() in SUFFIXES for path in (root / ADDED).iterdir()):
        raise InputError(
            f"sources/folder/{ADDED} is where images are kept that were taken in: name the class otherwise"
        )
    if (root / "images.npz").is_file():
        if subfolders(root):
            raise InputError("sources/folder holds both images.npz and subfolders: keep one of the two")
        images = from_archive(root / "images.npz", test, limits)
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
    return carve(images, labels, test, class_names, provenance)


def subfolders(parent: Path) -> list[str]:
    names = [path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    return sorted(name for name in names if parent / name != project.root() / "sources" / "folder" / ADDED)


def classes_in(parent: Path) -> list[str]:
    names = subfolders(parent)
    if len(names) < 2:
        has = f'only one class, "{names[0]}"' if names else "no class folders"
        raise InputError(
            f"{shown(parent)} has {has}: a classifier needs one subfolder of images for each of two or more"
        )
    refuse_names(parent, names)
    return names


def refuse_names(place: Path, class_names: list[str]) -> None:
    """A served ensemble answers with a column for each class, beside one called label; and a class's name is shown in
    tables, logs and pages, on one line."""
    for name in class_names:
        if printable(name) != name:
            raise InputError(
                f'{shown(place)} has a class named "{printable(name)}", a name with signs that cannot be shown '
                "(a line's end, a control character, bytes that are no UTF-8): choose another"
            )
    if "label" in class_names:
        raise InputError(f'{shown(place)} has a class named "label", a name that predictions need: choose another')


def image_files(parent: Path, class_names: list[str]) -> tuple[list[Path], np.ndarray]:
    """The image files of every class in sorted order, and their labels."""
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
    """N×H×W×1 where all images are grey, N×H×W×3 where any has colour; and their provenance."""
    sizes: dict[tuple[int, int], Path] = {}
    colour = False
    for file in files:  # headers only, so that what cannot work is known before anything is decoded
        header = named(file, image_file.header, file, limits)
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
        content = named(file, image_file.content, file, limits)
        images[index] = named(file, image_file.pixels, content, shape[1:], limits)
        listing.update(f"{hashlib.sha256(content).hexdigest()}  {file.relative_to(root).as_posix()}\n".encode())
        total += len(content)
    # One entry for all: the SHA-256 of what `sha256sum` would print for the files, in their order.
    entry = {
        "file": counted(len(files), "image"),
        "from": "sources/folder",
        "bytes": total,
        "sha256": listing.hexdigest(),
    }
    return images, [entry]


def named(file: Path, read: Callable, *given) -> Any:
    """What `read` returns; the file is named where it raises InputError."""
    try:
        return read(*given)
    except InputError as error:
        raise InputError(f"{shown(file)} {error}") from None


def fits_in_memory(shape: tuple[int, ...]) -> None:
    needed, free = math.prod(shape), psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"sources/folder: {shape[0]:,} images of {shape[2]}×{shape[1]} take {needed / 2**30:.1f} GiB of memory, "
            f"and {free / 2**30:.1f} are free: make the images smaller"
        )


def from_archive(file: Path, test: str | float, limits: Limits) -> Images:
    try:
        with npz.opened(file, limits) as archive:
            check_names(archive.headers, test)
            arrays = {name: archive.read(name) for name in archive.headers}
            entry = {"file": file.name, "from": "sources/folder"} | archive.size_and_hash()
    except InputError as error:
        raise InputError(f"{shown(file)} {error}") from None
    images, labels = checked_split(file, arrays, "images", "labels")
    names = arrays.get("class_names", np.arange(labels.max() + 1).astype(str))
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names)) < len(names):
        raise InputError(f"{shown(file)}: class_names has to be a list of different strings")
    class_names = [str(name) for name in names]
    refuse_names(file, class_names)
    checked_classes(file, labels, "labels", class_names)
    if test != "official":
        return carve(images, labels, test, class_names, [entry])
    test_images, test_labels = checked_split(file, arrays, "test_images", "test_labels")
    checked_classes(file, test_labels, "test_labels", class_names)
    if test_images.shape[1:] != images.shape[1:]:
        raise InputError(
            f"{shown(file)}: images are {sides(images.shape[1:])}, but test_images are {sides(test_images.shape[1:])}"
        )
    return Images(images, labels, test_images, test_labels, class_names, [entry])


def check_names(arrays: Collection[str], test: str | float) -> None:
    """Raises InputError where there are others than are needed; the message goes on after the file's name."""
    known = ("images", "labels", "class_names", "test_images", "test_labels")
    for name in arrays:
        if name not in known:
            raise InputError(f"has an {unknown('array', printable(name), known)}")
    wanted = ["images", "labels"] + (["test_images", "test_labels"] if test == "official" else [])
    for name in wanted:
        if name not in arrays:
            hint = "; or set data.folder.test to a fraction" if name.startswith("test_") else ""
            raise InputError(f"has no array {name}{hint}")
    if test != "official" and not {"test_images", "test_labels"}.isdisjoint(arrays):
        raise InputError("has test_images or test_labels: set data.folder.test to official")


def checked_split(file: Path, arrays: dict, images_name: str, labels_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as N×H×W×C and labels as int64."""
    images, labels = arrays[images_name], arrays[labels_name]
    if images.dtype != np.uint8:
        raise InputError(
            f"{shown(file)}: {images_name} has type {images.dtype}, but has to be uint8: scale it to 0..255 and save "
            f"{images_name}.round().astype('uint8')"
        )
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] > 4 or 0 in images.shape:
        raise InputError(
            f"{shown(file)}: {images_name} is {sides(arrays[images_name].shape)}, but has to be N×H×W or N×H×W×C, "
            "channels last, 1 to 4 of them"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise InputError(
            f"{shown(file)}: {labels_name} is {sides(labels.shape)} of type {labels.dtype}, "
            f"but has to be {len(images)} integers, one an image"
        )
    if labels.min() < 0 or labels.max() > MOST_CLASSES:
        raise InputError(
            f"{shown(file)}: {labels_name} holds {labels.min()} to {labels.max()}, but has to count classes from 0"
        )
    return np.ascontiguousarray(images), labels.astype(np.int64)


def checked_classes(file: Path, labels: np.ndarray, labels_name: str, class_names: list[str]) -> None:
    if labels.max() >= len(class_names):
        raise InputError(
            f"{shown(file)}: {labels_name} holds {labels.max()}, but there are {len(class_names)} classes, "
            f"0 to {len(class_names) - 1}"
        )
    if len(class_names) < 2:
        raise InputError(f"{shown(file)} has only one class: a classifier needs two or more")
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        raise InputError(f'{shown(file)}: no image in {labels_name} is of class "{class_names[int(counts.argmin())]}"')


def shown(path: Path) -> str:
    return path.relative_to(project.root()).as_posix()


def sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single value"


READERS = {
    "digits": digits,
    "blobs": blobs,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "folder": folder,
}
