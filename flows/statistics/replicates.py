"""Means and standard deviations over replicas, and the confidence interval of an accuracy."""

import math
import statistics


def summarize(replicas: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each score over the replicas and, for two or more, its sample standard deviation, `<name>_std`."""
    result = {}
    for name in replicas[0]:
        values = [replica[name] for replica in replicas]
        result[name] = statistics.fmean(values)
        if len(values) > 1:
            # A score that could not be measured is NaN, for which statistics.stdev raises.
            known = all(map(math.isfinite, values))
            result[f"{name}_std"] = statistics.stdev(values) if known else math.nan
    return result


def score_text(name: str, value: float) -> str:
    """A score as text: shares that a person reads as such in percent, numbers in a unit of the data's with four digits,
    others with four decimals."""
    if name in ("accuracy", "cer", "top_5"):
        return f"{value:.2%}"
    return f"{value:.4g}" if name in ("mse", "mae") else f"{value:.4f}"


def accuracy_text(numbers: dict[str, float]) -> str:
    """The accuracy as text: 97.50% ± 0.40%; without the deviation for a single replica."""
    deviation = f" ± {numbers['accuracy_std']:.2%}" if "accuracy_std" in numbers else ""
    return f"{numbers['accuracy']:.2%}{deviation}"


def wilson_interval(accuracy: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval, within 0 to 1, of an accuracy measured on so many images; two NaN for NaN.

    It says how much other test images would change the number, and nothing about how replicas differ.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927 (the score interval).
    """
    if math.isnan(accuracy):
        return math.nan, math.nan
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    centre = accuracy + z**2 / (2 * images)
    half = z * math.sqrt(accuracy * (1 - accuracy) / images + (z / (2 * images)) ** 2)
    scale = 1 + z**2 / images
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
