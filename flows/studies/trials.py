"""The trainings of a study, in rounds: tuning and defaults, wider grids, then the tuned values on fresh seeds."""

import math
import statistics
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.studies import specification
from flows.studies.variants import Variant, half_decades

WIDENINGS = 2  # how often a grid is extended by two values beyond the edge at which its optimum is
TUNING, DEFAULT, TUNED = "tuning", "default", "tuned"


@dataclass(frozen=True)
class Trial:
    """One training, or for a variant with several replicas one soft vote of as many.

    Attributes:
        setting: "tuning", or on a fresh seed "default" or "tuned".
        value: of what is tuned; None where nothing is.
    """

    variant: str
    setting: str
    value: float | None
    seed: int
    recipe: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def seeds(self) -> list[int]:
        """One for each replica. Votes of different sizes share their first networks."""
        return [self.seed, *(seed_of(self.seed, "replica", number) for number in range(1, self.recipe["replicas"]))]


def seed_of(seed: int, purpose: str, number: int) -> int:
    return zlib.crc32(f"{seed}/{purpose}/{number}".encode())


@dataclass
class Tuning:
    """What is known of one variant's tuning.

    Attributes:
        rows: of its tuning trials so far, by value and seed: in whichever order they come.
    """

    study: specification.Study
    variant: Variant
    rows: dict[tuple[float, int], Mapping[str, Any]] = field(default_factory=dict)

    def trial(self, setting: str, value: float | None, seed: int) -> Trial:
        recipe, settings = self.variant.at(value)
        return Trial(self.variant.name, setting, value, seed, recipe, settings)

    def tuning(self, values: Sequence[float]) -> list[Trial]:
        seeds = [seed_of(self.study.seed, "tuning", number) for number in range(self.study.tuning_seeds)]
        return [self.trial(TUNING, value, seed) for value in values for seed in seeds]

    def fresh(self, setting: str, value: float | None) -> list[Trial]:
        seeds = [seed_of(self.study.seed, "fresh", number) for number in range(self.study.seeds)]
        return [self.trial(setting, value, seed) for seed in seeds]

    def first(self) -> list[Trial]:
        return self.tuning(self.variant.grid) + self.fresh(DEFAULT, self.variant.default)

    def planned(self) -> list[Trial]:
        """The trials that are certain or likely: without a wider grid, and with a tuned value other than the default,
        in the place of which the default stands."""
        return self.first() + (self.fresh(TUNED, self.variant.default) if self.variant.tuned else [])

    def learn(self, trials: Sequence[Trial], rows: Sequence[Mapping[str, Any]]) -> None:
        """Notes the rows of tuning trials."""
        for trial, row in zip(trials, rows, strict=True):
            if trial.setting == TUNING and trial.variant == self.variant.name and trial.value is not None:
                self.rows[trial.value, trial.seed] = row

    @property
    def scores(self) -> dict[float, tuple[float, float]]:
        """By value, the mean validation accuracy and minus the mean validation nll over the tuning seeds; worst where a
        trial diverged."""
        by_value: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
        for value, seed in sorted(self.rows):
            by_value[value].append(self.rows[value, seed])
        found = {}
        for value, rows in by_value.items():
            if any(row["diverged"] for row in rows):
                found[value] = -math.inf, -math.inf
            else:
                accuracy = statistics.fmean(row["validation_accuracy"] for row in rows)
                found[value] = accuracy, -statistics.fmean(row["validation_nll"] for row in rows)
        return found

    def best(self) -> float | None:
        """The value that validation chooses, the default among equals; None where nothing is tuned."""
        order = (1, 0) if self.study.select_by == "nll" else (0, 1)
        scores, default = self.scores, self.variant.default
        return max(
            sorted(scores),
            key=lambda value: (*(scores[value][place] for place in order), value == default),
            default=None,
        )

    def wider(self) -> list[float]:
        """Two values beyond the edge at which the optimum is; none where it is bracketed, or the grid is the user's."""
        key, best, tried = self.study.tuned_key, self.best(), self.scores
        if not key or best is None or self.study.tune[key] != specification.DEFAULT:
            return []
        assert self.variant.default is not None
        steps = [round(2 * math.log10(value / self.variant.default)) for value in (min(tried), max(tried))]
        if best == min(tried):
            return [half_decades(self.variant.default, steps[0] - further) for further in (1, 2)]
        if best == max(tried):
            return [half_decades(self.variant.default, steps[1] + further) for further in (1, 2)]
        return []


def rounds(tunings: Sequence[Tuning]) -> Iterator[list[Trial]]:
    """Yields the trials of one round after another; scores of a round are to be noted before the next is asked for."""
    yield [trial for tuning in tunings for trial in tuning.first()]
    for _ in range(WIDENINGS):
        if wider := [trial for tuning in tunings for trial in tuning.tuning(tuning.wider())]:
            yield wider
    # The default's trainings on the fresh seeds are there already.
    last = [tuning for tuning in tunings if tuning.best() not in (None, tuning.variant.default)]
    if tuned := [trial for tuning in last for trial in tuning.fresh(TUNED, tuning.best())]:
        yield tuned
