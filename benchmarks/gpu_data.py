"""Reads MNIST and CIFAR-10 from a folder, on a machine that has neither DVC nor a network. Needs only numpy.

It reads two layouts: this project's data/ (cifar10/train_images.npy, ..., also split into train_images.0.npy,
train_images.1.npy, ..., if a file is too large to copy), and a torchvision data root (cifar-10-batches-py/*,
MNIST/raw/*.gz). Nothing is unpickled: images and labels are cut out of CIFAR-10's pickles.
"""

import gzip
import pickletools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.project.errors import InputError

CHANNELS = {"cifar10": 3, "mnist": 1}


@dataclass(frozen=True)
class Split:
    """Images (uint8, N×H×W×C) and labels (int64, N) of both splits; mean and std of the training images, per channel,
    of intensities between 0 and 1."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    mean: list[float]
    std: list[float]


def load(folder: Path, dataset: str) -> Split:
    """Reads a dataset (cifar10 or mnist) from the folder.

    Raises:
        InputError: it is missing, or not what it should be.
    """
    if (folder / dataset).is_dir():
        parts = [
            arrays(folder / dataset, name) for name in ("train_images", "train_labels", "test_images", "test_labels")
        ]
    elif dataset == "cifar10" and (folder / "cifar-10-batches-py").is_dir():
        parts = cifar10(folder / "cifar-10-batches-py")
    elif dataset == "mnist" and (folder / "MNIST" / "raw").is_dir():
        parts = mnist(folder / "MNIST" / "raw")
    else:
        raise InputError(f"{folder} holds no {dataset}: neither as .npy files nor as torchvision keeps it")
    train, test = (parts[0], parts[1].astype(np.int64)), (parts[2], parts[3].astype(np.int64))
    for images, labels in (train, test):
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or images.shape[3] != CHANNELS[dataset]
            or len(images) != len(labels)
        ):
            raise InputError(
                f"{folder}: {dataset} has {images.dtype} images of {images.shape} and {len(labels)} labels"
            )
    return Split(train, test, *moments(train[0]))


def moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """The exact mean and standard deviation per channel, computed from counts of the 256 intensities."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        means.append(float(share @ values))
        deviations.append(float((share @ (values - means[-1]) ** 2) ** 0.5))
    return means, deviations


def arrays(folder: Path, name: str) -> np.ndarray:
    whole = folder / f"{name}.npy"
    files = (
        [whole]
        if whole.is_file()
        else sorted(folder.glob(f"{name}.*.npy"), key=lambda file: int(file.suffixes[-2][1:]))
    )
    if not files:
        raise InputError(f"{whole} does not exist")
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])


def mnist(raw: Path) -> list[np.ndarray]:
    parts = []
    for split in ("train", "t10k"):
        for kind, header, shape in (("images-idx3", 16, (-1, 28, 28, 1)), ("labels-idx1", 8, (-1,))):
            content = gzip.decompress((raw / f"{split}-{kind}-ubyte.gz").read_bytes())
            parts.append(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())
    return parts


def cifar10(folder: Path) -> list[np.ndarray]:
    batches = [cifar10_batch(folder / f"data_batch_{number}") for number in range(1, 6)]
    images, labels = (np.concatenate(parts) for parts in zip(*batches))
    return [images, labels, *cifar10_batch(folder / "test_batch")]


def cifar10_batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one file: its longest string, and the numbers after the word "labels".

    Raises:
        InputError: the file has no images or labels.
    """
    pixels, labels, counting = "", [], False
    for operation, argument, _ in pickletools.genops(file.read_bytes()):
        if operation.name == "BINSTRING" and len(argument) > len(pixels):
            pixels = argument
        elif operation.name == "SHORT_BINSTRING":
            counting = argument == "labels"
        elif counting and operation.name == "BININT1":
            labels.append(argument)
    if not labels or len(pixels) != 3072 * len(labels):
        raise InputError(f"{file} is no batch of CIFAR-10: {len(pixels):,} bytes of pixels and {len(labels):,} labels")
    images = np.frombuffer(pixels.encode("latin-1"), np.uint8).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), np.array(labels)
