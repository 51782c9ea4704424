"""Whether one classifier is better than another on the same test images: paired statistics, and nothing else."""

import numpy as np

RESAMPLES = 10_000


def mcnemar(wins: int, losses: int) -> float:
    """The p of McNemar's exact test of whether two classifiers are right equally often, two-sided, 0 to 1.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika, 1947. The exact one never tells equals apart more often than its level says, however few images
    differ.

    Args:
        wins: images that the first alone has right.
        losses: images that the second alone has right. Those that both have right, or wrong, say nothing.
    """
    from scipy.stats import binomtest

    differing = wins + losses
    return float(binomtest(wins, differing, 0.5).pvalue) if differing else 1.0


def bootstrap_interval(wins: int, losses: int, images: int, level: float, seed: int = 0) -> tuple[float, float]:
    """The paired bootstrap's percentile interval of a difference in accuracy (0 to 1), first minus second.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Images are drawn again with
    replacement, each with both answers. All that a sample of them contributes is how many wins, losses and others it
    holds, and these numbers are multinomial: 10,000 samples are 10,000 draws, however many images there are.

    Args:
        wins, losses: see `mcnemar`.
        images: all of them.
        level: of confidence, such as 0.95.
    """
    shares = np.array([wins, losses, images - wins - losses]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=RESAMPLES)
    differences = (drawn[:, 0] - drawn[:, 1]) / images
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_class(first: np.ndarray, second: np.ndarray, labels: np.ndarray, class_names: list[str]) -> dict[str, dict]:
    """The share of each class's images that two classifiers have right, and the difference, first minus second.

    Args:
        first, second: bool, images: whether each has it right.
        labels: int64, images.

    Returns:
        images, first, second and difference by class; a class without a test image is left out.
    """
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
