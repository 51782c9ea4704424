"""Strings of digits, generated from scikit-learn's: the dataset digit_strings."""

import numpy as np

from flows.data import built_in, source_images

SEED = 11
SHORTEST, LONGEST = 3, 5
# A string's digits are of one pool, and no digit is in two. So validation strings, which are whole pools, are made of
# other digits than those of training; test strings are made of the digits of the test split.
POOLS, IN_A_POOL, TESTS = 20, 150, 600


def digit_strings(test: float) -> source_images.Images:
    """3,000 strings of three to five digits side by side, 8×40×1, dark to the right of a shorter one, and 600 test
    strings. Labels: N×5, padded with -1.

    Args:
        test: the fraction of the digits that test strings are made of.
    """
    digits = built_in.digits(test)
    generator = np.random.default_rng(SEED)
    pool_of = generator.permutation(np.arange(len(digits.train_labels)) % POOLS)
    images, labels = [], []
    for pool in range(POOLS):
        members = np.flatnonzero(pool_of == pool)
        made = strings(digits.train_images[members], digits.train_labels[members], IN_A_POOL, generator)
        images.append(made[0])
        labels.append(made[1])
    test_images, test_labels = strings(digits.test_images, digits.test_labels, TESTS, generator)
    train_images = np.concatenate(images)
    made_by = {"file": "digit_strings", "from": "flows/data/digit_strings.py, generated"}
    return source_images.Images(
        train_images, np.concatenate(labels), test_images, test_labels, digits.class_names,
        [*digits.provenance, made_by | source_images.size_and_hash(train_images.tobytes() + test_images.tobytes())],
        task="sequence", pools=np.repeat(np.arange(POOLS), IN_A_POOL),
    )  # fmt: skip


def strings(
    digits: np.ndarray, labels: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `count` strings of these digits."""
    chosen = generator.integers(len(digits), size=(count, LONGEST))
    there = np.arange(LONGEST) < generator.integers(SHORTEST, LONGEST + 1, size=(count, 1))
    placed = digits[chosen] * there[..., None, None, None].astype(np.uint8)  # count × place × rows × columns × 1
    height, width = digits.shape[1:3]
    images = placed.transpose(0, 2, 1, 3, 4).reshape(count, height, LONGEST * width, 1)
    return np.ascontiguousarray(images), np.where(there, labels[chosen], -1)
