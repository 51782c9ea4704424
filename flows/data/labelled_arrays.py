"""People's own images as arrays: sources/folder/images.npz."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from flows.data import npz
from flows.data.source_images import MOST_CLASSES, Images, refuse_names, shown, sides, split_off_test
from flows.params.sections import Limits
from flows.project.errors import InputError, unknown
from flows.untrusted.escaping import printable


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
        return split_off_test(images, labels, float(test), class_names, [entry])
    test_images, test_labels = checked_split(file, arrays, "test_images", "test_labels")
    checked_classes(file, test_labels, "test_labels", class_names)
    if test_images.shape[1:] != images.shape[1:]:
        raise InputError(
            f"{shown(file)}: images are {sides(images.shape[1:])}, but test_images are {sides(test_images.shape[1:])}"
        )
    return Images(images, labels, test_images, test_labels, class_names, [entry])


def check_names(arrays: Collection[str], test: str | float) -> None:
    """Raises InputError for unknown or missing arrays; the message continues the file's name."""
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
    """The checked images, uint8, N×H×W×C, and labels, int64, N."""
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
