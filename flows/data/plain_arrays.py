"""Writes a dataset as plain arrays with a card, and measures its pixels."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flows.project import file_io
from lightning_modules import sealed

PIECE = 1000  # images counted at a time: numpy's bincount makes 64-bit integers of their bytes


def mean_and_std(images: np.ndarray, left_out: np.ndarray | Sequence[int] = ()) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of intensities 0 to 1, without the images at the indices `left_out`.

    Sums are integers, so the result is the same on every machine.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    count = np.ones(len(images), bool)
    count[np.asarray(left_out, int)] = False
    for start in range(0, len(images), PIECE):
        piece = images[start : start + PIECE][count[start : start + PIECE]]
        for channel, histogram in enumerate(counts):
            histogram += np.bincount(piece[..., channel].ravel(), minlength=256)
    mean, std = [], []
    for levels in counts.tolist():
        number = sum(levels)
        first = sum(level * count for level, count in enumerate(levels))
        second = sum(level**2 * count for level, count in enumerate(levels))
        mean.append(first / number / 255)
        std.append(math.sqrt((second * number - first**2) / number**2) / 255)
    return mean, std


def write(folder: Path, arrays: dict[str, np.ndarray], card: dict, provenance: list[dict]) -> dict:
    """Writes the files beside `folder` and renames: a folder that exists is whole. Returns the complete card."""
    files = {}
    with file_io.whole_folder(folder) as unfinished:
        for name, array in arrays.items():
            file = unfinished / f"{name}.npy"
            np.save(file, array, allow_pickle=False)
            with file.open("rb") as stream:
                files[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        card = card | {"files": files, "provenance": provenance}
        file_io.write_json(unfinished / "dataset.json", sealed.sealed(card))
    return card
