"""Reads images that come from outside: those of a folder, or of an images.npz. What cannot be used is named, and left
out."""

import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.added import decode
from flows.sources import SUFFIXES
from lightning_modules.errors import InputError, counted


@dataclass(frozen=True)
class Arrivals:
    """images: uint8, N×H×W×C; found: how many there were to choose from; refused: a file and a reason each."""

    images: np.ndarray
    found: int
    refused: list[tuple[str, str]]


def read(place: Path, shape: tuple[int, int, int], most: int, seed: int) -> Arrivals:
    """At most `most` images, drawn with the seed, in the order of their files.

    Args:
        place: a folder, whose subfolders are looked through too, or an .npz file; a folder that holds an images.npz
            stands for that file, as in sources/folder.
        shape: height, width and channels that an image has to have.

    Raises:
        InputError: it does not exist, holds no images, or its images are all of no use.
    """
    if not place.exists():
        raise InputError(f"{place} does not exist: give a folder of image files, or an .npz file")
    if place.is_dir() and not (place / "images.npz").is_file():
        return from_files(place, shape, most, seed)
    return from_archive(place / "images.npz" if place.is_dir() else place, shape, most, seed)


def sample(count: int, most: int, seed: int) -> np.ndarray:
    """Sorted numbers of at most `most` of `count`, the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def from_files(folder: Path, shape: tuple[int, int, int], most: int, seed: int) -> Arrivals:
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder} has no image files ({', '.join(sorted(SUFFIXES))}), nor have its subfolders")
    images, refused = [], []
    for number in sample(len(files), most, seed):
        try:
            images.append(decode(files[number], shape))
        except InputError as reason:
            refused.append((files[number].relative_to(folder).as_posix(), str(reason)))
    if not images:
        file, reason = refused[0]
        count = counted(len(refused), "image file")
        raise InputError(f"{folder} has {count}, and none that can be used; the first, {file}, {reason}")
    return Arrivals(np.stack(images), len(files), refused)


def image_files(folder: Path) -> list[Path]:
    """Sorted; what begins with a dot is left out, like a file that is still being copied."""
    found = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def from_archive(file: Path, shape: tuple[int, int, int], most: int, seed: int) -> Arrivals:
    """The array `images` of an .npz file: uint8, N×H×W, or N×H×W×C."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            images = archive["images"]
    except KeyError:
        raise InputError(f"{file} has no array called images") from None
    except (AttributeError, EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file} is neither a folder nor an .npz file of plain arrays: {error}") from None
    found = "×".join(map(str, images.shape))
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        wanted = "×".join(map(str, shape))
        raise InputError(f"{file}: images are {found} of type {images.dtype}, but have to be N×{wanted} of type uint8")
    return Arrivals(images[sample(len(images), most, seed)], len(images), [])
