"""Loads data/<dataset>/, after checking that it is as stage download wrote it."""

import hashlib
from dataclasses import dataclass

import numpy as np

from flows.data import plain_arrays
from flows.project import paths
from flows.project.errors import InputError
from lightning_modules import names

STAGE = "download"  # which makes them
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "validation_indices")


@dataclass(frozen=True)
class Dataset:
    """A dataset. Its arrays are memory-mapped and read-only.

    card: the content of dataset.json, see `flows.download.download`.
    train_images, test_images: uint8, N×H×W×C; train_labels, test_labels: int64, N; of other tasks than classification
        see `source_images.Images`.
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
    card, arrays = plain_arrays.read(folder, ARRAYS, STAGE, "test_sha256", check=check)
    return Dataset(card, **arrays)


def read_card(dataset: str) -> dict:
    """The content of dataset.json. Raises InputError where it is missing, changed or damaged."""
    return plain_arrays.read_card(paths.data_folder(dataset), ARRAYS, STAGE, "test_sha256")


def refuse_other_tasks(dataset: str, what: str, hint: str = "") -> None:
    """Raises InputError for a dataset of another task than classification, as far as its card is there.

    Args:
        what: cannot be done with it: the beginning of the sentence, such as "the gate compares".
        hint: the end of the sentence.
    """
    if (paths.data_folder(dataset) / "dataset.json").is_file():
        task = names.task_of(read_card(dataset))
        if task != "classification":
            raise InputError(f"{what} classifiers alone, and the task of {dataset} is {task}{hint}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_of_test_data(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of test images and labels, independent of the file format."""
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, "<f4" if labels.dtype.kind == "f" else "<i8").data)
    return digest.hexdigest()
