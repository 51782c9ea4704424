"""A folder of plain arrays with a card, dataset.json, that has the SHA-256 of each: written, checked and read."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flows.graph import healing
from flows.project import file_io, paths
from flows.project.errors import DamagedError, InputError
from lightning_modules import sealed

PIECE = 1000  # images counted at a time: numpy's bincount makes 64-bit integers of their bytes


def mean_and_std(images: np.ndarray, left_out: np.ndarray | Sequence[int] = ()) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of intensities 0 to 1, without the images at the indices `left_out`.

    Sums are integers, so the result is the same on every machine. Of float32 images they are those of the values
    themselves, in any unit, and the sums are exact as well.
    """
    if images.dtype != np.uint8:
        count = np.ones(len(images), bool)
        count[np.asarray(left_out, int)] = False
        columns = images[count].reshape(-1, images.shape[-1]).T.tolist()
        return [list(found) for found in zip(*map(centre_and_spread, columns))]  # type: ignore[return-value]
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


def centre_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, by exact sums: the same on every machine."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def write(folder: Path, arrays: dict[str, np.ndarray], card: dict, provenance: list[dict]) -> dict:
    """Writes the files beside `folder` and renames: a folder that exists is whole. Returns the complete card."""
    files = {}
    with file_io.whole_folder(folder) as unfinished:
        for name, array in arrays.items():
            file = unfinished / f"{name}.npy"
            np.save(file, array, allow_pickle=False)
            files[file.name] = file_sha256(file)
        card = card | {"files": files, "provenance": provenance}
        file_io.write_json(unfinished / "dataset.json", sealed.sealed(card))
    return card


def read(
    folder: Path, names: Sequence[str], stage: str, *keys: str, check: bool = True
) -> tuple[dict, dict[str, np.ndarray]]:
    """The card of a folder and its arrays by name, memory-mapped and read-only.

    Args:
        names: of the arrays, without .npy.
        stage: of DVC, that makes the folder.
        keys: what the card has to have.
        check: whether to check each file's SHA-256 against the card.

    Raises:
        InputError: the folder does not exist, or a file was changed or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.relative_to(paths.root())} does not exist: run dvc repro {stage}")
    card = read_card(folder, names, stage, *keys)
    arrays = {}
    for name in names:
        file = folder / f"{name}.npy"
        if check and file_sha256(file) != card["files"][file.name]:
            raise damaged(file, "is not what dataset.json says (changed or damaged)", stage)
        arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
    return card, arrays


def read_card(folder: Path, names: Sequence[str], stage: str, *keys: str) -> dict:
    """The content of a folder's dataset.json, see `read`."""
    file = folder / "dataset.json"
    try:
        card = sealed.opened(file_io.read_json(file, "files", *keys), file)
        if not all(f"{name}.npy" in card["files"] for name in names):
            raise DamagedError(file, "does not name all files")
    except FileNotFoundError:
        raise damaged(file, "is missing", stage) from None
    except (DamagedError, TypeError) as error:
        raise damaged(file, getattr(error, "reason", "is damaged"), stage) from None
    return card


def damaged(file: Path, reason: str, stage: str) -> DamagedError:
    # Not `dvc checkout`: DVC does not verify its cache, and may restore a damaged file.
    return DamagedError(paths.shown(file), f"{reason}: {healing.heal(file, stage)}")


def file_sha256(file: Path) -> str | None:
    """The SHA-256 of a file; None where it does not exist."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
