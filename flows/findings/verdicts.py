"""From the rows of a study's trainings to what can be said of each variant.

A row is one training, a mapping with these keys:

    variant             its name
    setting             tuning, default or tuned; those of `tuning` choose a value, the others report on fresh seeds
    value               of the hyper-parameter that is tuned, such as a learning rate
    seed
    diverged            whether it became NaN or infinite
    training_accuracy, validation_accuracy, held_out_accuracy     0 to 1; another measure has its own three columns
    validation_nll      nats
    steps_to_target     infinite for a miss; NaN, or no such key, where the study has no target
    seconds             of the training
    seconds_to_target   like steps_to_target; may be missing

A diverged training counts with the score of ignorance, such as chance accuracy, and misses the target. It is never left
out: an optimizer that fails on one seed of five fails whoever uses it.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.findings import budget
from flows.findings.budget import Row
from flows.findings.findings import Finding, Findings, Reach
from flows.project.errors import InputError, quoted
from flows.statistics import comparisons, student

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = ("tuning", "default", "tuned")
# Of accuracy, 0 to 1: a larger gap between training and held-out accuracy is overfitting, and a training accuracy that
# is lower by more than this than the study's best is underfitting.
GAP = 0.02


@dataclass(frozen=True)
class Measure:
    """What trainings are compared by.

    Attributes:
        name: ends the columns, such as validation_accuracy.
        ignorance: the score of a training that diverged: of accuracy 1 / classes, of NLL ln(classes).
    """

    name: str
    ignorance: float

    @property
    def higher_is_better(self) -> bool:
        return self.name == "accuracy"

    def score(self, row: Row, split: str) -> float:
        """The score of a training on `training`, `validation` or `held_out`."""
        return self.ignorance if self.failed(row, split) else float(row[f"{split}_{self.name}"])

    def failed(self, row: Row, split: str) -> bool:
        """Whether a training diverged: it says so, or its score is no finite number."""
        return bool(row["diverged"]) or not math.isfinite(row[f"{split}_{self.name}"])


def judge(
    rows: "pd.DataFrame | Iterable[Row]",
    baseline: str,
    ignorance: float,
    *,
    measure: str = "accuracy",
    margin: float = 0.001,
    alpha: float = 0.05,
    tuned: str = "lr",
    by_nll: bool = False,
) -> Findings:
    """Says of each variant whether it is better than the baseline, see `comparisons`.

    Compared are the tuned trainings; in a study that tunes nothing the ones at the default.

    Args:
        rows: see the module. A variant has the same seeds as the baseline.
        baseline: a variant.
        ignorance: see `Measure`.
        measure: `accuracy`, of which more is better, or another name that ends the columns, of which less is better.
        margin: a smaller difference does not matter; in the unit of the measure.
        alpha: the chance, 0 to 1, that the study calls any variant better or worse that is not.
        tuned: the name of the hyper-parameter that is tuned.
        by_nll: whether validation NLL chose its value.

    Raises:
        InputError: the baseline, or one of its seeds for a variant, is not among the rows; or a setting is unknown.
    """
    what = Measure(measure, ignorance)
    by_variant = grouped(rows)
    setting = "tuned" if any(found["tuned"] for found in by_variant.values()) else "default"
    if baseline not in by_variant:
        raise InputError(f"the baseline {quoted(baseline)} is not among the variants: {', '.join(by_variant)}")
    paired = {variant: found[setting] for variant, found in by_variant.items()}
    seeds = sorted(paired[baseline])
    for variant, found in paired.items():
        if sorted(found) != seeds or not seeds:
            raise InputError(
                f"{variant} has the seeds {sorted(found)} at setting {setting}, and the baseline {baseline} {seeds}: "
                "both need the same"
            )
    scores = {variant: [what.score(found[seed], "held_out") for seed in seeds] for variant, found in paired.items()}
    training = {
        variant: statistics.fmean(what.score(found[seed], "training") for seed in seeds)
        for variant, found in paired.items()
    }
    floor = student.rounding(
        [
            float(row[f"held_out_{measure}"])
            for found in paired.values()
            for row in found.values()
            if not what.failed(row, "held_out")
        ]
    )
    others = [variant for variant in scores if variant != baseline]
    compared = comparisons.compare(
        {variant: [a - b for a, b in zip(scores[variant], scores[baseline])] for variant in others},
        margin,
        alpha,
        what.higher_is_better,
        {variant: 0.0 if same(paired[variant], paired[baseline], what) else floor for variant in others},
    )
    best = max(training.values())
    findings = []
    for variant, trainings in paired.items():
        tuning, default = list(by_variant[variant]["tuning"].values()), by_variant[variant]["default"]
        value, default_value = value_of(trainings), value_of(default)
        findings.append(
            Finding(
                variant=variant,
                value=value,
                scores=tuple(scores[variant]),
                score=student.interval(scores[variant], alpha),
                diverged=tuple(seed for seed in seeds if what.failed(trainings[seed], "held_out")),
                diverged_tuning=sum(what.failed(row, "validation") for row in tuning),
                trials=len(tuning),
                default=student.interval([what.score(row, "held_out") for row in default.values()], alpha)
                if default and setting != "default"
                else None,
                default_value=default_value,
                comparison=compared.get(variant),
                bracketed=budget.bracketed(tuning, value) if tuning and value is not None else None,
                budget=spent(tuning, default_value, what, by_nll),
                steps=reach(trainings, "steps_to_target"),
                time=reach(trainings, "seconds_to_target"),
                seconds=statistics.median(row["seconds"] for row in trainings.values()),
                training=training[variant],
                fit=fit(training[variant], statistics.fmean(scores[variant]), best) if measure == "accuracy" else None,
            )
        )
    return Findings(baseline, measure, margin, alpha, tuned, tuple(seeds), setting, tuple(findings))


def records(rows: "pd.DataFrame | Iterable[Row]") -> Iterable[Row]:
    """The rows of a table of pandas as mappings; others as they are."""
    return rows.to_dict("records") if hasattr(rows, "to_dict") else rows


def grouped(rows: "pd.DataFrame | Iterable[Row]") -> dict[str, dict[str, dict]]:
    """The rows by variant, setting, and seed; those of the tuning by value and seed."""
    found: dict[str, dict[str, dict]] = {}
    for row in records(rows):
        if row["setting"] not in SETTINGS:
            raise InputError(f"unknown setting {quoted(row['setting'])}: it is one of {', '.join(SETTINGS)}")
        key: Any = (row["value"], row["seed"]) if row["setting"] == "tuning" else row["seed"]
        one = found.setdefault(row["variant"], {setting: {} for setting in SETTINGS})[row["setting"]]
        if key in one:
            raise InputError(f"{row['variant']} has two trainings of setting {row['setting']} with seed {row['seed']}")
        # pandas writes NaN where there is none.
        one[key] = {**row, "value": None if row["value"] is None or math.isnan(row["value"]) else row["value"]}
    return found


def value_of(trainings: Mapping[int, Row]) -> float | None:
    """The tuned hyper-parameter's value in trainings that share it; None where nothing is tuned."""
    return next((row["value"] for row in trainings.values()), None)


def spent(tuning: list[Row], default: float | None, what: Measure, by_nll: bool) -> tuple[budget.Trials, ...]:
    """The score by the number of trials, see `budget.by_budget`; empty where the tuning has no held-out scores."""
    if all(what.failed(row, "held_out") for row in tuning):
        return ()
    centre = statistics.median(sorted({row["value"] for row in tuning})) if default is None else default
    return budget.by_budget(tuning, centre, what.score, what.higher_is_better, by_nll)


def same(first: Mapping[int, Row], second: Mapping[int, Row], what: Measure) -> bool:
    """Whether the trainings of two variants have equal scores and NLL for each seed, as those of momentum 0 and of
    plain gradient descent: then the networks are the same, and not just as good on so many images."""
    columns = (f"held_out_{what.name}", "validation_nll")
    return all(
        not what.failed(first[seed], "held_out")
        and all(column in first[seed] and first[seed][column] == second[seed][column] for column in columns)
        for seed in first
    )


def reach(trainings: Mapping[int, Row], column: str) -> Reach | None:
    """When trainings reach the target. The median is known also where fewer than half miss it, a mean is not."""
    if any(column not in row for row in trainings.values()):
        return None
    given = {seed: float(row[column]) for seed, row in trainings.items()}
    if any(math.isnan(amount) and not trainings[seed]["diverged"] for seed, amount in given.items()):
        return None  # there is no target
    amounts = tuple(math.inf if trainings[seed]["diverged"] else given[seed] for seed in sorted(given))
    # An even number with half of them missing has a median between a number and infinity: infinity.
    return Reach(statistics.median(amounts), sum(map(math.isfinite, amounts)), amounts)


def fit(training: float, held_out: float, best_training: float) -> str:
    """The name of a fit, by accuracies from 0 to 1.

    Args:
        best_training: the highest training accuracy of all variants.

    Returns:
        "overfits": the training accuracy is more than `GAP` above the held-out one. "underfits": it is more than `GAP`
        below that of the variant which learns its training images best. "under- and overfits": both. "fits": neither.
    """
    over, under = training - held_out > GAP, best_training - training > GAP
    return "under- and overfits" if over and under else "overfits" if over else "underfits" if under else "fits"
