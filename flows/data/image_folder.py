"""Reads incoming images from a folder, or from an .npz file. Unusable images are listed and left out."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.data import npz
from flows.data.image_file import SUFFIXES, decode
from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project.errors import InputError, counted


@dataclass(frozen=True)
class IncomingImages:
    """Incoming images.

    images: uint8, N×H×W×C.
    found: the number of images from which these were drawn.
    refused: file and reason of each unusable image.
    """

    images: np.ndarray
    found: int
    refused: list[tuple[str, str]]


def read(
    place: Path, shape: tuple[int, int, int], most: int, seed: int, limits: Limits = DEFAULT_LIMITS
) -> IncomingImages:
    """A random sample of at most `most` images, in the order of their files.

    Args:
        place: a folder, with its subfolders, or an .npz file. A folder with an images.npz stands for that file, as in
            sources/folder.
        shape: height, width and channels that an image has to have.

    Raises:
        InputError: it does not exist, holds no images, or none of its images is usable.
    """
    if not place.exists():
        raise InputError(f"{place} does not exist: give a folder of image files, or an .npz file")
    if place.is_dir() and not (place / "images.npz").is_file():
        return from_files(place, shape, most, seed, limits)
    return from_archive(place / "images.npz" if place.is_dir() else place, shape, most, seed, limits)


def sample(count: int, most: int, seed: int) -> np.ndarray:
    """Sorted random indices below `count`, at most `most` of them, the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def from_files(folder: Path, shape: tuple[int, int, int], most: int, seed: int, limits: Limits) -> IncomingImages:
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder} has no image files ({', '.join(sorted(SUFFIXES))}), nor have its subfolders")
    images, refused = [], []
    for number in sample(len(files), most, seed):
        try:
            images.append(decode(files[number], shape, limits))
        except InputError as reason:
            refused.append((files[number].relative_to(folder).as_posix(), str(reason)))
    if not images:
        file, why = refused[0]
        count = counted(len(refused), "image file")
        raise InputError(f"{folder} has {count}, and none that can be used; the first, {file}, {why}")
    return IncomingImages(np.stack(images), len(files), refused)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, sorted. Names with a leading dot, such as those of files that are
    still being copied, are left out."""
    found = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def from_archive(file: Path, shape: tuple[int, int, int], most: int, seed: int, limits: Limits) -> IncomingImages:
    """A sample of the array `images` of an .npz file: uint8, N×H×W or N×H×W×C."""
    try:
        with npz.opened(file, limits) as archive:
            header = archive.headers.get("images")
            if header is None:
                raise InputError("has no array called images")
            sides = (*header.shape, 1) if len(header.shape) == 3 else header.shape
            if header.dtype != np.uint8 or sides[1:] != shape:
                found, wanted = ("×".join(map(str, of)) for of in (header.shape, shape))
                raise InputError(
                    f"has images of {found} of type {header.dtype}, but they have to be N×{wanted} of type uint8"
                )
            count = sides[0]
            numbers = sample(count, most, seed)
            return IncomingImages(archive.rows("images", numbers).reshape(len(numbers), *shape), count, [])
    except InputError as error:
        raise InputError(f"{file} {error}") from None
