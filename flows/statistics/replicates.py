"""Means and standard deviations over replicas, and what a test set of some size says of an accuracy."""

import math
import statistics


def spread(replicas: list[dict[str, float]]) -> dict[str, float]:
    """Each number's mean over the replicas and, where there are several, its standard deviation as `<name>_std`."""
    result = {}
    for name in replicas[0]:
        values = [replica[name] for replica in replicas]
        result[name] = statistics.fmean(values)
        if len(values) > 1:
            # Of a NaN, a score that could not be measured, statistics makes an error.
            known = all(map(math.isfinite, values))
            result[f"{name}_std"] = statistics.stdev(values) if known else math.nan
    return result


def mean_and_std(numbers: dict[str, float]) -> str:
    """The accuracy for a person; that of a single replica has no deviation."""
    deviation = f" ± {numbers['accuracy_std']:.2%}" if "accuracy_std" in numbers else ""
    return f"{numbers['accuracy']:.2%}{deviation}"


def wilson(accuracy: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """The interval in which an accuracy lies that was measured on so many images, all from 0 to 1.

    What replicas differ by is not in it: it says how much other test images would change the number. Of NaN nothing is
    known.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927 (the score interval).
    """
    if math.isnan(accuracy):
        return math.nan, math.nan
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    centre = accuracy + z**2 / (2 * images)
    half = z * math.sqrt(accuracy * (1 - accuracy) / images + (z / (2 * images)) ** 2)
    scale = 1 + z**2 / images
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
