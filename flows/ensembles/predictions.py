"""Loads the predictions of stage evaluate, and checks their SHA-256."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.data import plain_arrays
from flows.graph import healing
from flows.project import file_io, paths
from flows.project.errors import DamagedError
from lightning_modules import sealed

if TYPE_CHECKING:
    from torch import Tensor


def predictions(name: str, members: Iterable[str], split: str) -> "Tensor":
    """Log-probabilities, networks × images × classes, of all replicas of all members.

    Raises:
        DamagedError: a file is not what evaluate wrote.
        FileNotFoundError: a file is missing.
    """
    import torch

    places = [paths.predictions_file(name, member, split) for member in members]
    written = predictions_written(name)
    files = []
    for place in places:
        expected = written.get(place.name)
        if expected and place.exists() and plain_arrays.file_sha256(place) != expected:
            raise file_io.damaged(place, "is not what evaluate wrote (changed or damaged)", heal(place))
        # Memory-mapped, so that the concatenation is the only copy in memory.
        try:
            files.append(np.load(place, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise file_io.damaged(place, f"is damaged ({error})", heal(place)) from None
    return torch.from_numpy(np.concatenate(files))


def predictions_written(name: str) -> dict[str, str]:
    """The SHA-256 of each predictions file, by its name; empty for files of an old version, which wrote no digests."""
    file = paths.predictions_file(name, "", "").with_name("files.json")
    try:
        return sealed.opened(file_io.read_json(file, "files"), file)["files"]
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        raise file_io.damaged(file, error.reason, heal(file)) from None


def heal(file: Path) -> str:
    return healing.heal(file, "evaluate")
