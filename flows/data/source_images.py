"""A source's images and labels, with the test split apart."""

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

# The seed of the test split where there is no official one: the split is the same for every `seed` in params.yaml.
TEST_SEED = 20_240_229
MOST_CLASSES = 100_000
ADDED = "added"  # folder below sources/<dataset>/, see flows/data/added.py


@dataclass(frozen=True)
class Images:
    """A dataset as published, neither normalised nor shuffled.

    Images are uint8, N×H×W×C; labels are int64, N, indices into `class_names`. `provenance` has an entry for each
    source file: file, from, bytes and sha256. It does not depend on the place from which the bytes were fetched.

    Attributes:
        task: a key of `names.TASKS`. For regression labels are float32, N, and there are no class names; for sequences
            they are int64, N×longest, padded with -1.
        target: what the number is, for regression.
        features: the names of the channels where these are measurements: images are float32 then, 1×1×channels.
        pools: int64, one a training image: images that have something in common, such as parts, are in one pool, and
            a pool is never divided between training and validation. None: there is nothing in common.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]
    provenance: list[dict]
    task: str = "classification"
    target: str | None = None
    features: list[str] | None = None
    pools: np.ndarray | None = None


def stratified_sample(
    labels: np.ndarray, fraction: float, seed: int, class_names: list[str], purpose: str
) -> np.ndarray:
    """A stratified random sample: sorted int64 indices of a `fraction` of each class, the same for the same seed.

    Args:
        purpose: what the sample is for, in a message.

    Raises:
        InputError: a class has fewer than two images, so that none would be left on one side.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts):
        if count < 2:
            raise InputError(
                f'class "{name}" has {count} of the images that {purpose} is set aside from; '
                "it needs 2 or more, so that one stays on each side"
            )
    # Largest remainders: the total is exact, and each class is less than one image off.
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


def random_sample(count: int, fraction: float, seed: int, purpose: str) -> np.ndarray:
    """A random sample: sorted int64 indices of a `fraction` of `count` images, the same for the same seed.

    Args:
        purpose: what the sample is for, in a message.

    Raises:
        InputError: there are fewer than two, so that none would be left on one side.
    """
    if count < 2:
        raise InputError(f"there are {count} images that {purpose} could be set aside from; it takes 2 or more")
    size = min(max(round(count * fraction), 1), count - 1)
    return np.sort(np.random.default_rng(seed).permutation(count)[:size]).astype(np.int64)


def validation_sample(images: Images, fraction: float, seed: int) -> np.ndarray:
    """The sorted indices of the training images that become the validation split: of classes a stratified sample, else
    a random one, of whole pools where there are pools."""
    purpose, labels = "the validation split", images.train_labels
    if images.pools is not None:
        chosen = random_sample(int(images.pools.max()) + 1, fraction, seed, purpose)
        return np.flatnonzero(np.isin(images.pools, chosen)).astype(np.int64)
    if images.task == "classification":
        return stratified_sample(labels, fraction, seed, images.class_names, purpose)
    return random_sample(len(labels), fraction, seed, purpose)


def describe(dataset: str) -> dict:
    """The content of sources/<dataset>/source.yaml, unchecked: the file belongs to the project."""
    return file_io.read_yaml(paths.root() / "sources" / dataset / "source.yaml")


def split_off_test(
    images: np.ndarray, labels: np.ndarray, test: float, class_names: list[str], provenance: list
) -> Images:
    """The dataset with a stratified test split of `test`, a fraction, for sources without an official one."""
    chosen = stratified_sample(labels, test, TEST_SEED, class_names, "the test split")
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return Images(images[rest], labels[rest], images[chosen], labels[chosen], class_names, provenance)


def size_and_hash(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def refuse_names(place: Path, class_names: list[str]) -> None:
    """Raises InputError for names that classes cannot have.

    A served ensemble answers with a column for each class, beside one called label. Tables, logs and pages show the
    name on one line.
    """
    for name in class_names:
        if printable(name) != name:
            raise InputError(
                f'{shown(place)} has a class named "{printable(name)}", a name with signs that cannot be shown '
                "(a line's end, a control character, bytes that are no UTF-8): choose another"
            )
    if "label" in class_names:
        raise InputError(f'{shown(place)} has a class named "label", a name that predictions need: choose another')


def naming_file(file: Path, read: Callable, *given: Any) -> Any:
    """What `read(*given)` returns. Puts the file's name before the message where it raises InputError."""
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
