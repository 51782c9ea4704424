"""Tuning: which value is chosen, whether it is bracketed, and how good one gets with how many trials.

A trial is one training with one value of the tuned hyper-parameter. All choices are made on validation.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BUDGETS = (1, 3, 7)  # trials

Row = Mapping[str, Any]
Score = Callable[[Row, str], float]  # of a row and a split, such as "validation"; see `verdicts.Measure.score`


@dataclass(frozen=True)
class Trials:
    """How good one is after some trials.

    Attributes:
        trials: their number.
        mean, low, high: held-out score: the mean, the least and the largest over the tuning seeds.
    """

    trials: int
    mean: float
    low: float
    high: float


def merit(row: Row, score: Score, higher_is_better: bool) -> tuple[float, float]:
    """What a training is chosen by, more is better: its validation score, then its validation NLL."""
    nll = float(row.get("validation_nll", math.inf))
    unknown = bool(row["diverged"]) or math.isnan(nll)
    return score(row, "validation") * (1 if higher_is_better else -1), -math.inf if unknown else -nll


def bracketed(rows: Sequence[Row], value: float) -> bool:
    """Whether a smaller and a larger value were tried, too: an optimum at the edge of a grid is no optimum."""
    return min(row["value"] for row in rows) < value < max(row["value"] for row in rows)


def outwards(values: Sequence[float], centre: float) -> list[float]:
    """The values of a grid in the order in which they are tried: the one nearest to the published default, its
    neighbours, and so on, by steps of the grid; of two that are as far the smaller first."""
    grid = sorted(set(values))
    middle = min(range(len(grid)), key=lambda number: abs(grid[number] - centre))
    return sorted(grid, key=lambda value: (abs(grid.index(value) - middle), value))


def by_budget(
    rows: Sequence[Row], default: float, score: Score, higher_is_better: bool = True, by_nll: bool = False
) -> tuple[Trials, ...]:
    """The score that is expected of somebody who tries k values and keeps the training that is best on validation.

    For each tuning seed the best training by validation is taken of the first k values, see `outwards`, and scored
    by its held-out score. A grid that was extended has one number more: all its values. Only budgets that the grid can
    spend are returned.

    Args:
        rows: the tuning's trainings of one variant.
        default: the published default of what is tuned.
        by_nll: whether validation NLL chooses, and the score only among equals.
    """
    order = outwards([row["value"] for row in rows], default)
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(row)
    found = []
    for trials in sorted({number for number in BUDGETS if number <= len(order)} | {len(order)}):
        tried = set(order[:trials])
        kept = [
            max(
                (row for row in one if row["value"] in tried),
                key=lambda row: merit(row, score, higher_is_better)[:: -1 if by_nll else 1],
            )
            for one in by_seed.values()
            if any(row["value"] in tried for row in one)
        ]
        scores = [score(row, "held_out") for row in kept]
        found.append(Trials(trials, statistics.fmean(scores), min(scores), max(scores)))
    return tuple(found)
