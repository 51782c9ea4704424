"""Several recipes against one baseline: who is better, worse or equivalent, and of whom it cannot be told.

The seed is the unit: the differences are paired, variant minus baseline of the same seed. One interval a variant
decides its word, and is the one to show:

* Its level is the one at which Holm's procedure tested the variant: the smallest p-value of m at alpha / m, the next at
  alpha / (m - 1), and so on; from the first that fails on, all at the same level. So it leaves out 0 exactly where
  Holm's test rejects.
* `equivalent`: it lies between -margin and margin, also where it leaves out 0: a difference that is certain and too
  small to matter.
* `better`, `worse`: else, if it leaves out 0.
* `cannot tell`: all else, and always with fewer than three seeds. Those have no interval.

The chance that a study calls any variant better or worse that is not is at most alpha, however many variants there are.
A variant that differs by the margin is called equivalent with a chance of at most half of its level: the interval
within the margins is Schuirmann's two one-sided tests, each at half of it.

Sources: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics, 1979.
Serlin, Confidence intervals and the scientific method: a case for Holm on the range, Journal of Experimental
Education, 1993 (intervals at Holm's levels). Schuirmann, A comparison of the two one-sided tests procedure and the
power approach for assessing the equivalence of average bioavailability, Journal of Pharmacokinetics and
Biopharmaceutics, 1987.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flows.statistics import student

Word = Literal["better", "worse", "equivalent", "cannot tell"]
FEWEST_SEEDS = 3  # that tell recipes apart. By chance alone both seeds of one beat both of another in one case of six


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline.

    Attributes:
        differences: variant minus baseline, one a seed, in the unit of the score.
        interval: of their mean, at Holm's level; infinitely wide with fewer than `FEWEST_SEEDS` seeds.
        p: the t test's two-sided p-value, not corrected; 1 with too few seeds.
        word: the verdict.
        seeds: of a variant that cannot be told from the baseline: about how many would decide, if mean and standard
            deviation stay as they are; None where more than `student.MOST_SEEDS` would, and for other words.
    """

    differences: tuple[float, ...]
    interval: student.Interval
    p: float
    word: Word
    seeds: int | None


def holm(p_values: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The level at which Holm's procedure tests each hypothesis: it is rejected where its p-value is below."""
    levels, level, stopped = {}, alpha, False
    for number, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if not stopped:
            level = alpha / (len(p_values) - number)
            stopped = p_values[name] >= level
        levels[name] = level
    return levels


def compare(
    differences: Mapping[str, Sequence[float]],
    margin: float,
    alpha: float = 0.05,
    higher_is_better: bool = True,
    floors: Mapping[str, float] | None = None,
) -> dict[str, Comparison]:
    """Compares variants with the baseline.

    Args:
        differences: by variant: its score minus the baseline's, one a seed.
        margin: a smaller difference does not matter; in the unit of the score, at least 0.
        alpha: the chance, 0 to 1, that anything is called better or worse that is not.
        floors: by variant: the least standard deviation that its differences can have, by default 0: see
            `student.rounding`.
    """
    floors = dict.fromkeys(differences, 0.0) if floors is None else floors
    known = {name: len(values) >= FEWEST_SEEDS for name, values in differences.items()}
    p_values = {
        name: student.p_value(values, floors[name]) if known[name] else 1.0 for name, values in differences.items()
    }
    found = {}
    for name, level in holm(p_values, alpha).items():
        values = differences[name]
        mean = statistics.fmean(values)
        interval = student.Interval(mean, -math.inf, math.inf, 1 - level)
        if known[name]:
            interval = student.interval(values, level, floors[name])
        word, seeds = verdict(interval, margin, higher_is_better), None
        if word == "cannot tell" and len(values) > 1:
            # It would leave out 0, or fit between the margins.
            half = max(abs(mean), margin - abs(mean))
            fewest = FEWEST_SEEDS if not known[name] else len(values) + 1
            seeds = student.seeds_until(half, student.deviation(values, floors[name]), level, fewest)
        found[name] = Comparison(tuple(values), interval, p_values[name], word, seeds)
    return {name: found[name] for name in differences}


def verdict(interval: student.Interval, margin: float, higher_is_better: bool = True) -> Word:
    """The word for a difference, by its interval alone."""
    if -margin <= interval.low and interval.high <= margin:
        return "equivalent"
    if interval.low > 0:
        return "better" if higher_is_better else "worse"
    if interval.high < 0:
        return "worse" if higher_is_better else "better"
    return "cannot tell"
