"""Student's t over few seeds: the interval of a mean, its p-value, and how many seeds would make it narrow enough.

Source: Student, The probable error of a mean, Biometrika, 1908. With five seeds an interval of 1.96 standard errors is
too narrow by a third.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MOST_SEEDS = 1000  # that a number of seeds is looked for among


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        low, high: infinite where the values are too few.
        level: the confidence level, such as 0.95.
    """

    mean: float
    low: float
    high: float
    level: float


def deviation(values: Sequence[float], floor: float = 0.0) -> float:
    """The sample standard deviation of two or more values, not below `floor`."""
    return max(statistics.stdev(values), floor)


def half_width(deviation: float, seeds: int, alpha: float) -> float:
    """Half the width of the two-sided interval at level 1 - alpha of a mean over two or more seeds."""
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, 1 - alpha / 2)) * deviation / math.sqrt(seeds)


def interval(values: Sequence[float], alpha: float = 0.05, floor: float = 0.0) -> Interval:
    """The mean of the values, one a seed, and its t interval at level 1 - alpha; infinitely wide for a single value.

    Args:
        floor: the least standard deviation that the values can have, see `rounding`. Without one, values that are all
            the same have an interval without width.
    """
    mean = statistics.fmean(values)
    half = half_width(deviation(values, floor), len(values), alpha) if len(values) > 1 else math.inf
    return Interval(mean, mean - half, mean + half, 1 - alpha)


def p_value(values: Sequence[float], floor: float = 0.0) -> float:
    """The two-sided p-value of the t test that the mean of two or more values is 0.

    Of values that are all the same, without a `floor`: 1 if they are 0, else 0.
    """
    from scipy.special import stdtr

    mean, spread = statistics.fmean(values), deviation(values, floor)
    if not spread:
        return 0.0 if mean else 1.0
    return float(2 * stdtr(len(values) - 1, -abs(mean) / spread * math.sqrt(len(values))))


def seeds_until(half: float, deviation: float, alpha: float, fewest: int) -> int | None:
    """The smallest number of seeds, from `fewest`, whose interval's half width is below `half` if the standard
    deviation stays as it is; None where it is more than `MOST_SEEDS`."""

    def enough(seeds: int) -> bool:
        return half_width(deviation, seeds, alpha) < half

    if not enough(MOST_SEEDS):
        return None
    low, high = fewest - 1, MOST_SEEDS  # the width falls with the number of seeds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def rounding(scores: Sequence[float]) -> float:
    """The standard deviation that rounding gives the difference of two scores: step / √6.

    An accuracy on n images is a multiple of 1/n. By luck three seeds have the same difference, and a t test would be
    certain of it. The rounding error of a score is uniform over one step: its variance is step²/12, a difference's
    twice that. The step is the smallest distance of two of the scores; of scores that are not rounded it is so small
    that it changes nothing.
    """
    known = sorted(set(scores))
    # Scores that differ in their last bit are the same number of images.
    steps = [gap for low, high in itertools.pairwise(known) if (gap := high - low) > 1e-9 * max(1.0, abs(high))]
    return min(steps) / math.sqrt(6) if steps else 0.0
