"""The figures of a study, by name, from the same object as its words and its table."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flows.findings.across import Across
from flows.findings.budget import Row
from flows.findings.findings import Finding, Findings
from flows.findings.verdicts import Measure, records

if TYPE_CHECKING:
    import pandas as pd

    from flows.figures.theme import Chart

NAMES = {"lr": "learning rate"}


def charts(
    findings: Findings,
    rows: "pd.DataFrame | Iterable[Row]",
    curves: "pd.DataFrame | Iterable[Row]",
    target: str | None = None,
    norms: "Iterable[Row]" = (),
) -> "dict[str, Chart]":
    """The figures that a study has the numbers for, of verdicts, learning_curves, sensitivity, budget, steps_to_target
    and gradients.

    Args:
        rows: see `verdicts`.
        curves: variant, setting, seed, epoch, training_loss, validation_nll.
        target: of the steps, such as "97% validation accuracy"; None where there is none.
        norms: variant, seed, layer and norm, of the gradient before the first step.
    """
    from flows.figures import costs, forest, gradients, learning_curves, sensitivity

    scale = 100.0 if findings.measure == "accuracy" else 1.0
    unit = "points" if findings.measure == "accuracy" else findings.measure
    found = {
        "verdicts": forest.forest(
            [forest_row(findings, one, scale) for one in findings.ranked()],
            findings.baseline,
            findings.margin * scale,
            unit,
        )
    }
    drawn = [row for row in records(curves) if row["setting"] == findings.setting]
    if drawn:
        found["learning_curves"] = learning_curves.learning_curves(
            drawn, findings.baseline, "validation_nll", "training_loss"
        )
    tuning = [
        sensitivity_row(findings, row) for row in records(rows) if row["setting"] == "tuning" and row["value"] > 0
    ]
    if tuning and findings.measure == "accuracy":
        name = NAMES.get(findings.tuned, findings.tuned)
        found["sensitivity"] = sensitivity.sensitivity(tuning, name)
    spent: list[dict[str, Any]] = [
        {"variant": one.variant, "trials": trials.trials, "error": error(trials.mean, findings), "word": one.word}
        for one in findings.findings
        for trials in one.budget
    ]
    if spent and all(row["error"] > 0 for row in spent):
        what = "error (%)" if findings.measure == "accuracy" else findings.measure
        found["budget"] = costs.by_budget(spent, what)
    steps = [
        {"variant": one.variant, "label": findings.label(one), "amounts": one.steps.amounts}
        for one in findings.findings
        if one.steps
    ]
    if steps and target:
        found["steps_to_target"] = costs.steps_to_target(steps, target)
    if passed := [{**row, "word": findings[row["variant"]].word} for row in norms]:
        found["gradients"] = gradients.gradient_norms(passed)
    return found


def forest_row(findings: Findings, one: Finding, scale: float) -> Mapping[str, Any]:
    interval = one.comparison.interval if one.comparison else None
    return {
        "variant": one.variant,
        "label": findings.label(one),
        "word": one.word,
        "score": findings.text(one.score.mean),
        "mean": interval.mean * scale if interval else None,
        "low": interval.low * scale if interval else None,
        "high": interval.high * scale if interval else None,
        "seeds": [difference * scale for difference in one.comparison.differences] if one.comparison else [],
    }


def sensitivity_row(findings: Findings, row: Row) -> Mapping[str, Any]:
    one = findings[row["variant"]]
    failed = Measure(findings.measure, 0.0).failed(row, "validation")
    return {
        "variant": one.variant,
        "value": row["value"],
        "error": None if failed else error(row["validation_accuracy"], findings),
        "default": row["value"] == one.default_value,
        "chosen": row["value"] == one.value,
    }


def error(score: float, findings: Findings) -> float:
    """What is lower for the better: the error in percent, or the measure itself."""
    return 100 * (1 - score) if findings.measure == "accuracy" else score


def across_datasets(across: Across) -> "dict[str, Chart]":
    """The figures that compare two datasets or more: a heat map of the verdicts, and where all studies have targets a
    performance profile of the steps to them."""
    from flows.figures import costs, heat_map

    outcomes = [
        (dataset, one) for row in across.rows.values() for dataset, one in zip(across.datasets, row, strict=True)
    ]
    cells = [
        {"variant": one.variant, "dataset": dataset, "difference": one.points, "word": one.word}
        for dataset, one in outcomes
    ]
    charts = {"heat_map": heat_map.heat_map(cells, across.baseline)}
    runs = [
        {"variant": one.variant, "problem": dataset, "cost": one.steps}
        for dataset, one in outcomes
        if one.steps is not None
    ]
    if len(runs) == len(cells):
        charts["performance_profile"] = costs.performance_profile(runs, across.baseline)
    return charts
