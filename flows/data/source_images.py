"""Images and labels as a source gives them, with its test images apart."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.untrusted.escaping import printable

# The test images of a dataset without an official test split: the same ones whatever `seed` in params.yaml is.
TEST_SEED = 20_240_229
MOST_CLASSES = 100_000
ADDED = "added"  # below sources/<dataset>/: images that were taken in, see flows/data/added.py


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
    return file_io.read_yaml(paths.root() / "sources" / dataset / "source.yaml")


def carve(images: np.ndarray, labels: np.ndarray, test: float, class_names: list[str], provenance: list) -> Images:
    """Sets the test images aside where nobody has done so."""
    chosen = set_aside(labels, test, TEST_SEED, class_names, "the test split")
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return Images(images[rest], labels[rest], images[chosen], labels[chosen], class_names, provenance)


def size_and_hash(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


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


def shown(path: Path) -> str:
    return path.relative_to(paths.root()).as_posix()


def sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single value"
