"""Loads data/<dataset>/, after checking that it is as stage download wrote it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.graph import healing
from flows.project import file_io, paths
from flows.project.errors import DamagedError, InputError
from lightning_modules import sealed

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "validation_indices")


@dataclass(frozen=True)
class Dataset:
    """A dataset. Its arrays are memory-mapped and read-only.

    card: the content of dataset.json, see `flows.download.download`.
    train_images, test_images: uint8, N×H×W×C; train_labels, test_labels: int64, N.
    validation_indices: int64, sorted; rows of the training arrays, which contain the validation images.
    """

    card: dict
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    validation_indices: np.ndarray

    def split_view(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(images, labels, rows) of a split, uncopied; rows: its sorted indices, None for all.

        Args:
            name: "train" (without the validation images), "validation" or "test".
        """
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
        """(images, labels) of the split "train", "validation" or "test", copied to memory."""
        images, labels, rows = self.split_view(name)
        if rows is None:
            return np.array(images), np.array(labels)
        return np.asarray(images[rows]), np.asarray(labels[rows])

    def labels(self, name: str) -> np.ndarray:
        """The labels of the split "train", "validation" or "test", copied to memory."""
        _, labels, rows = self.split_view(name)
        return np.array(labels if rows is None else labels[rows])


def load(dataset: str, check: bool = True) -> Dataset:
    """The dataset in data/<dataset>/.

    Args:
        check: whether to check each file's SHA-256 against dataset.json; False where the parent process just did.

    Raises:
        InputError: it does not exist, or a file was changed or damaged.
    """
    folder = paths.data_folder(dataset)
    place = folder.relative_to(paths.root())
    if not folder.is_dir():
        raise InputError(f"{place} does not exist: run dvc repro download")
    card = read_card(dataset)
    arrays = {}
    for name in ARRAYS:
        file = folder / f"{name}.npy"
        if check and file_sha256(file) != card["files"][file.name]:
            raise damaged(file, "is not what dataset.json says (changed or damaged)")
        arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
    return Dataset(card, **arrays)


def read_card(dataset: str) -> dict:
    """The content of dataset.json. Raises InputError where it is missing, changed or damaged."""
    file = paths.data_folder(dataset) / "dataset.json"
    try:
        card = sealed.opened(file_io.read_json(file, "files", "test_sha256"), file)
        if not all(f"{name}.npy" in card["files"] for name in ARRAYS):
            raise DamagedError(file, "does not name all files")
    except FileNotFoundError:
        raise damaged(file, "is missing") from None
    except (DamagedError, TypeError) as error:
        raise damaged(file, getattr(error, "reason", "is damaged")) from None
    return card


def damaged(file: Path, reason: str) -> DamagedError:
    # Not `dvc checkout`: DVC does not verify its cache, and may restore a damaged file.
    return DamagedError(paths.shown(file), f"{reason}: {healing.heal(file, 'download')}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_sha256(file: Path) -> str | None:
    """The SHA-256 of a file; None where it does not exist."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def digest_of_test_data(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of test images and labels, independent of the file format."""
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, "<i8").data)
    return digest.hexdigest()
