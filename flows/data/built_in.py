"""Datasets that need no network: digits and diabetes, which come with scikit-learn, and blobs, which is generated."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from flows.data import source_images

BLOBS_SEED = 7


def digits(test: float) -> source_images.Images:
    """scikit-learn's 1,797 digits, 8×8×1; grey levels 0..16 are scaled to 0..255."""
    rows, origin = of_scikit_learn("digits.csv.gz", ",")
    levels, labels = rows[:, :-1], rows[:, -1]
    images = np.rint(levels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    return source_images.split_off_test(
        images, labels.astype(np.int64), test, source_images.describe("digits")["class_names"], [origin]
    )


def diabetes(test: float) -> source_images.Images:
    """scikit-learn's 442 patients, as images 1×1×10: a channel for each measurement, as it was published."""
    measured, origin = of_scikit_learn("diabetes_data_raw.csv.gz")
    target, origin_of_target = of_scikit_learn("diabetes_target.csv.gz")
    about = source_images.describe("diabetes")
    images, labels = measured.astype(np.float32).reshape(-1, 1, 1, measured.shape[1]), target.astype(np.float32)
    chosen = source_images.random_sample(len(labels), test, source_images.TEST_SEED, "the test split")
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return source_images.Images(
        images[rest], labels[rest], images[chosen], labels[chosen], [], [origin, origin_of_target],
        task="regression", target=about["target"], features=about["features"],
    )  # fmt: skip


def of_scikit_learn(name: str, delimiter: str | None = None) -> tuple[np.ndarray, dict]:
    """The numbers in a file of scikit-learn's datasets, and where they come from."""
    # Read the package's file: importing scikit-learn and SciPy would take longer than everything else here.
    found = find_spec("sklearn")
    assert found
    assert found.submodule_search_locations
    [package] = found.submodule_search_locations
    content = Path(package, "datasets", "data", name).read_bytes()
    rows = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=delimiter)
    return rows, {"file": name, "from": "scikit-learn"} | source_images.size_and_hash(content)


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
