"""Loads data/<dataset>/, as the download stage wrote it, after checking that nobody has changed it since."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows import project
from lightning_modules.errors import InputError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "validation_indices")


@dataclass(frozen=True)
class Dataset:
    """The arrays are memory-mapped and read-only.

    card: dataset.json; `flows.download.download` says what it holds.
    train_images, test_images: uint8, N×H×W×C; train_labels, test_labels: int64, N.
    validation_indices: int64, sorted, into the training arrays, which therefore contain the validation images.
    """

    card: dict
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    validation_indices: np.ndarray

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Images and labels that "train" (without the validation images), "validation" or "test" is among, not copied,
        and the numbers of those that belong to it, sorted; None for all."""
        if name == "test":
            return self.test_images, self.test_labels, None
        chosen = np.zeros(len(self.train_labels), bool)
        chosen[self.validation_indices] = True
        if name == "train":
            chosen = ~chosen
        elif name != "validation":
            raise ValueError(f"no split {name!r}: there are train, validation and test")
        return self.train_images, self.train_labels, np.flatnonzero(chosen)

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of "train", "validation" or "test" alone, copied to memory."""
        images, labels, rows = self.part(name)
        if rows is None:
            return np.array(images), np.array(labels)
        return np.asarray(images[rows]), np.asarray(labels[rows])

    def labels(self, name: str) -> np.ndarray:
        """Those of "train", "validation" or "test", copied to memory."""
        _, labels, rows = self.part(name)
        return np.array(labels if rows is None else labels[rows])


def load(dataset: str, check: bool = True) -> Dataset:
    """The dataset of data/<dataset>/, every file of it checked against the SHA-256 in dataset.json.

    Args:
        check: False where the process that started this one has just checked them.

    Raises:
        InputError: it is not there, or a file of it was changed or damaged.
    """
    folder = project.data_folder(dataset)
    place = folder.relative_to(project.root())
    if not folder.is_dir():
        raise InputError(f"{place} does not exist: run dvc repro download")
    try:
        card = project.read_json(folder / "dataset.json")
        expected = [card["files"][f"{name}.npy"] for name in ARRAYS]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{place / 'dataset.json'} is missing or damaged: {REMEDY}") from None
    arrays = {}
    for name, sha256 in zip(ARRAYS, expected):
        if check and file_sha256(folder / f"{name}.npy") != sha256:
            raise InputError(f"{place / name}.npy is not what dataset.json says (changed or damaged): {REMEDY}")
        arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return Dataset(card, **arrays)


# Not `dvc checkout`: DVC does not verify its cache, and would bring a damaged file back out of it.
REMEDY = "run dvc repro --force download"


def file_sha256(file: Path) -> str | None:
    """None for a file that is not there."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
