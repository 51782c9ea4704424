"""The images that both sides train on: published datasets, or random images of the same shape if there is no mirror."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.data_path import write_like_mnist
from flows.data import dataset, plain_arrays, sources
from flows.project.errors import InputError

# Height, width and channels; number of training and of held-out images.
PUBLISHED = {"mnist": ((28, 28, 1), 60_000, 10_000), "cifar10": ((32, 32, 3), 50_000, 10_000)}


@dataclass(frozen=True)
class Data:
    """Images (uint8, N×H×W×C) and labels (int64, N). `real` is False for random images, from which nothing can be
    learned."""

    dataset: str
    training: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    class_names: list[str]
    real: bool

    def head(self, training: int, held_out: int) -> "Data":
        """The first images of each split."""
        parts = ((self.training, training), (self.held_out, held_out))
        first, second = (tuple(np.ascontiguousarray(array[:count]) for array in part) for part, count in parts)
        return replace(self, training=first, held_out=second)

    @property
    def shape(self) -> list[int]:
        return list(self.training[0].shape[1:])

    @property
    def chance(self) -> float | None:
        """The accuracy of a guess; None for random images."""
        return 1 / len(self.class_names) if self.real else None

    @property
    def remark(self) -> str:
        return "" if self.real else " (random images: the published ones cannot be had here)"


def get(name: str) -> Data:
    """A published dataset: from data/<name> if the download stage has written it, else fetched as that stage does, from
    TRAINYARD_MIRROR or the official host."""
    try:
        given = dataset.load(name)
        card = given.card
        split = (given.train_images, given.train_labels), (given.test_images, given.test_labels)
        return Data(name, *(tuple(map(np.array, part)) for part in split), card["class_names"], True)
    except InputError:
        pass
    try:
        found = sources.read(name, "official" if name in PUBLISHED else 0.2)
        split = (found.train_images, found.train_labels), (found.test_images, found.test_labels)
        return Data(name, *split, found.class_names, True)
    except InputError:
        shape, *counts = PUBLISHED[name]
        random = np.random.default_rng(0)
        split = ((random.integers(0, 256, (n, *shape), np.uint8), random.integers(0, 10, n)) for n in counts)
        return Data(name, *split, [str(number) for number in range(10)], False)


def lay_out(data: Data, validation: np.ndarray, root: Path) -> None:
    """Writes data/<dataset>/ of the project at `root`, as its download stage would.

    Args:
        validation: sorted indices of those training images that are validation images.
    """
    images, labels = data.training
    mean, std = plain_arrays.mean_and_std(np.delete(images, validation, axis=0))
    arrays = {
        "train_images": images, "train_labels": labels,
        "test_images": data.held_out[0], "test_labels": data.held_out[1], "validation_indices": validation,
    }  # fmt: skip
    card = {
        "name": data.dataset, "shape": data.shape, "class_names": data.class_names, "mean": mean, "std": std,
        "counts": {
            "train": len(labels) - len(validation), "validation": len(validation), "test": len(data.held_out[1]),
        },
        "test_sha256": dataset.digest_of_test_data(*data.held_out),
    }  # fmt: skip
    plain_arrays.write(root / "data" / data.dataset, arrays, card, [])


def held_out_as_validation(data: Data) -> tuple[Data, np.ndarray]:
    """The data and the indices of the validation images, for `lay_out`, so that a project trains on all training images
    and validates on the held-out ones, as the rivals do."""
    training = tuple(map(np.concatenate, zip(data.training, data.held_out)))
    first = len(data.training[1])
    return replace(data, training=training), np.arange(first, first + len(data.held_out[1]))


def for_rivals(data: Data, folder: Path) -> dict:
    """Writes the files that the rivals read: plain arrays, and for grey images also MNIST/raw, for torchvision.
    Returns:
        The rivals' settings: folder, shape, classes, and mean and std per channel.
    """
    for name, (images, labels) in (("train", data.training), ("held_out", data.held_out)):
        np.save(folder / f"{name}_images.npy", images, allow_pickle=False)
        np.save(folder / f"{name}_labels.npy", labels, allow_pickle=False)
    if data.shape[2] == 1:
        write_like_mnist(folder, data.training, data.held_out)
    mean, std = plain_arrays.mean_and_std(data.training[0])
    return {"folder": str(folder), "shape": data.shape, "classes": len(data.class_names), "mean": mean, "std": std}
