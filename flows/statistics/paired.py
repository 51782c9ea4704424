"""Paired statistics: whether one classifier is better than another on the same test images."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


TINY = 1e-9  # distance kept from differences of -1 and 1, where the variance is 0


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided p-value, 0 to 1, of McNemar's exact test that two classifiers are right equally often.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika, 1947. The exact test keeps its level however few images differ.

    Args:
        wins: the number of images that only the first has right.
        losses: the number that only the second has right. Images that both have right, or both wrong, do not count.
    """
    from scipy.stats import binomtest

    differing = wins + losses
    return float(binomtest(wins, differing, 0.5).pvalue) if differing else 1.0


def score_interval(wins: int, losses: int, images: int, level: float) -> tuple[float, float]:
    """The score interval of the difference in accuracy, first minus second, -1 to 1, between paired answers.

    Source: Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine, 1998. It keeps its coverage where few images differ; the bootstrap's and Wald's
    intervals are too narrow there. At levels close to 1 it may contain 0 although McNemar's exact test tells the two
    apart: the test decides, and the interval says how large the difference is.

    Args:
        wins, losses: see `mcnemar`.
        images: the number of all images.
        level: the confidence level, such as 0.95.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = norm.isf((1 - level) / 2)

    def distance(difference: float) -> float:
        """How many standard errors the observed difference lies above `difference`."""
        # The most likely share of losses given `difference`: the root of a quadratic.
        b = -wins - losses + (2 * images - wins + losses) * difference
        c = -losses * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * images * c, 0.0)) - b) / (4 * images)
        variance = images * (2 * share + difference * (1 - difference))
        excess = wins - losses - images * difference
        return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess) if excess else 0.0

    low = -1.0 if distance(-1 + TINY) < z else brentq(lambda at: distance(at) - z, -1 + TINY, 1 - TINY)
    high = 1.0 if distance(1 - TINY) > -z else brentq(lambda at: distance(at) + z, -1 + TINY, 1 - TINY)
    return low, high


def share_of_alpha(alpha: float, number: int) -> float:
    """The level of the k-th decision on the same test images: alpha · 6 / (π² k²), where k is `number`, from 1.

    All levels sum to alpha. So the chance that any decision ever promotes a model that is no better is at most alpha,
    however alike the models are (Bonferroni's inequality, with weights that sum to 1).
    """
    return alpha * 6 / (math.pi * number) ** 2


def fewest_wins(differing: int, level: float) -> int | None:
    """The fewest wins, out of `differing` images, for which McNemar's exact p is below the level; None where even
    `differing` wins are too few."""
    enough = (wins for wins in range(differing // 2 + 1, differing + 1) if mcnemar(wins, differing - wins) < level)
    return next(enough, None)


def confidence_text(alpha: float) -> str:
    """The confidence level 1 - alpha as text: 95%, 99.966%."""
    return f"{100 - 100 * alpha:.{max(0, 1 - math.floor(math.log10(100 * alpha)))}f}".rstrip("0").rstrip(".") + "%"


def accuracy_by_class(
    first: "np.ndarray", second: "np.ndarray", labels: "np.ndarray", class_names: list[str]
) -> dict[str, dict]:
    """The accuracy of two classifiers on each class, and the difference, first minus second.

    Args:
        first, second: bool, one an image: whether the classifier has it right.
        labels: int64, one an image.

    Returns:
        By class: images, first, second and difference. A class without a test image is left out.
    """
    import numpy as np

    counts = np.bincount(labels, minlength=len(class_names))
    right = [np.bincount(labels, weights=correct, minlength=len(class_names)) for correct in (first, second)]
    return {
        name: {
            "images": int(counts[number]),
            "first": float(right[0][number] / counts[number]),
            "second": float(right[1][number] / counts[number]),
            "difference": float((right[0][number] - right[1][number]) / counts[number]),
        }
        for number, name in enumerate(class_names)
        if counts[number]
    }
