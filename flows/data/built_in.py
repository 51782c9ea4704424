"""Datasets that need no network: digits, which comes with scikit-learn, and blobs, which is generated."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from flows.data import source_images

BLOBS_SEED = 7


def digits(test: float) -> source_images.Images:
    """scikit-learn's 1,797 digits, 8×8×1; grey levels 0..16 are scaled to 0..255."""
    # Read the package's file: importing scikit-learn and SciPy would take longer than everything else here.
    found = find_spec("sklearn")
    assert found
    assert found.submodule_search_locations
    [package] = found.submodule_search_locations
    file = Path(package, "datasets", "data", "digits.csv.gz")
    content = file.read_bytes()
    rows = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",")
    levels, labels = rows[:, :-1], rows[:, -1]
    images = np.rint(levels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    provenance = [{"file": file.name, "from": "scikit-learn"} | source_images.size_and_hash(content)]
    return source_images.split_off_test(
        images, labels.astype(np.int64), test, source_images.describe("digits")["class_names"], provenance
    )


def blobs(test: float) -> source_images.Images:
    """2,000 points from ten 2-D Gaussians on a circle, as images 1×2×1: a grey level for each coordinate."""
    generator = np.random.default_rng(BLOBS_SEED)
    labels = generator.permutation(np.arange(2000) % 10)
    angles = 2 * np.pi * labels / 10
    points = 128 + 90 * np.stack([np.cos(angles), np.sin(angles)], 1) + 13 * generator.standard_normal((2000, 2))
    images = np.clip(np.rint(points), 0, 255).astype(np.uint8).reshape(-1, 1, 2, 1)
    provenance = [
        {"file": "blobs", "from": "flows/data/built_in.py, generated"} | source_images.size_and_hash(images.tobytes())
    ]
    return source_images.split_off_test(
        images, labels.astype(np.int64), test, source_images.describe("blobs")["class_names"], provenance
    )
