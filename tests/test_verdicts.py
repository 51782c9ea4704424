"""What a study says: seldom wrong by simulation, the same in words, table and numbers, and nothing is left out."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from flows.findings import budget, verdicts
from flows.project.errors import InputError

STUDIES = 1000
MOST = STUDIES * 0.05 + 2 * math.sqrt(STUDIES * 0.05 * 0.95)  # 5 %, and the simulation's own error


def row(variant: str, accuracy: float, seed: int, setting: str = "default", value: float = 0.1, **more) -> dict:
    return {
        "variant": variant, "setting": setting, "value": value, "seed": seed, "diverged": False,
        "training_accuracy": accuracy, "validation_accuracy": accuracy, "validation_nll": 1 - accuracy,
        "held_out_accuracy": accuracy, "held_out_nll": 1 - accuracy, "steps_to_target": 10.0, "seconds": 1.0, **more,
    }  # fmt: skip


def study(**accuracies: list[float]) -> list[dict]:
    return [row(name, value, seed) for name, values in accuracies.items() for seed, value in enumerate(values)]


def simulated(generator: np.random.Generator, seeds: int, variants: int, images: int | None, gain: float = 0.0):
    """A study of variants that differ in nothing but luck, but for the last, which is better by `gain`."""
    means = np.full(variants, 0.94)
    means[-1] += gain
    accuracies = means[:, None] + generator.normal(0, 0.004, seeds) + generator.normal(0, 0.005, (variants, seeds))
    if images:
        accuracies = np.round(accuracies * images) / images
    return study(**{f"v{number}": values.tolist() for number, values in enumerate(accuracies)})


def told_apart(rows: list[dict]) -> bool:
    return any(one.word in ("better", "worse") for one in verdicts.judge(rows, "v0", 0.1).findings)


@pytest.mark.parametrize("images", [None, 360])
@pytest.mark.parametrize("seeds", [3, 5])
def test_of_a_thousand_studies_without_a_difference_few_tell_variants_apart(seeds, images):
    generator = np.random.default_rng(seeds)
    assert sum(told_apart(simulated(generator, seeds, 7, images)) for _ in range(STUDIES)) <= MOST


def test_two_seeds_never_tell_variants_apart():
    generator = np.random.default_rng(2)
    assert not any(told_apart(simulated(generator, 2, 4, None, gain=0.5)) for _ in range(50))


def test_a_real_difference_is_found():
    generator = np.random.default_rng(0)
    found = [verdicts.judge(simulated(generator, 5, 7, 360, gain=0.04), "v0", 0.1)["v6"].word for _ in range(200)]
    assert found.count("better") >= 0.9 * len(found)
    assert "worse" not in found


def test_the_interval_that_is_shown_is_the_one_of_the_word():
    generator = np.random.default_rng(4)
    for gain in (0.0, 0.01, 0.03):
        findings = verdicts.judge(simulated(generator, 5, 8, 360, gain), "v0", 0.1)
        for line in findings.table()[1:]:
            leaves_out_zero = line["difference_low"] > 0 or line["difference_high"] < 0
            within = max(-line["difference_low"], line["difference_high"]) <= findings.margin
            assert (line["word"] == "equivalent") == within
            assert (line["word"] in ("better", "worse")) == (leaves_out_zero and not within)


def test_words_table_and_markdown_say_the_same():
    findings = verdicts.judge(study(a=[0.9, 0.91, 0.92], b=[0.8, 0.81, 0.82], c=[0.9, 0.95, 0.85]), "a", 0.1)
    for finding, sentence, line in zip(findings.findings, findings.words(), findings.table(), strict=True):
        assert finding.word in sentence
        assert line["word"] == finding.word
        assert f"{line['accuracy']:.2%}" in sentence
    assert "b: worse than a, -10.00 points" in findings.words()[1]
    assert "| worse |" in findings.markdown()
    with pytest.raises(dataclasses.FrozenInstanceError):
        findings.margin = 1.0


def test_three_seeds_with_the_same_lucky_image_do_not_make_a_verdict():
    """Each has one image of 360 more right: a t test by itself would be certain."""
    base = [340 / 360, 342 / 360, 345 / 360]
    found = verdicts.judge(study(a=base, b=[value + 1 / 360 for value in base]), "a", 0.1)["b"]
    assert found.word == "cannot tell"
    assert found.comparison.seeds > 3


def test_seeds_that_are_all_equal_have_a_defined_result():
    """Equal accuracies and NLL: the same networks. Equal accuracies alone: as good on so many images."""
    base = [340 / 360, 342 / 360, 341 / 360]
    same = verdicts.judge(study(a=base, b=base), "a", 0.1)["b"]
    assert (same.word, same.comparison.interval.low, same.comparison.interval.high) == ("equivalent", 0.0, 0.0)
    luck = study(a=base) + [row("b", value, seed, validation_nll=0.5) for seed, value in enumerate(base)]
    assert verdicts.judge(luck, "a", 0.1)["b"].word == "cannot tell"
    flat = verdicts.judge(study(a=[0.9] * 3, b=[0.9] * 3), "a", 0.1)["b"]
    assert flat.word == "equivalent"


def test_a_diverged_training_counts_as_guessing_and_is_said():
    rows = study(a=[0.9, 0.91, 0.92, 0.9, 0.91])
    rows += [
        row("b", math.nan, seed, diverged=True, steps_to_target=math.nan) if seed < 3 else row("b", 0.95, seed)
        for seed in range(5)
    ]
    findings = verdicts.judge(rows, "a", 0.1)
    found = findings["b"]
    assert found.scores == (0.1, 0.1, 0.1, 0.95, 0.95)
    assert found.diverged == (0, 1, 2)
    assert "3 of 5 trainings diverged" in findings.words()[1]
    assert (found.steps.median, found.steps.reached) == (math.inf, 2)
    assert "3 of 5" in findings.markdown()
    assert "never (2 of 5)" in findings.markdown()
    all_failed = [row("b", math.nan, seed, diverged=True) for seed in range(5)]
    assert verdicts.judge(rows[:5] + all_failed, "a", 0.1)["b"].word == "worse"


def test_steps_to_target_are_a_median_in_which_a_miss_is_infinite():
    steps = [30.0, math.inf, 20.0, 10.0, math.inf]
    rows = [row("a", 0.9, seed, steps_to_target=number) for seed, number in enumerate(steps)]
    found = verdicts.judge(rows, "a", 0.1)["a"]
    assert (found.steps.median, found.steps.reached, found.time) == (30.0, 3, None)
    without = [row("a", 0.9, seed, steps_to_target=math.nan) for seed in range(3)]
    assert verdicts.judge(without, "a", 0.1)["a"].steps is None


def tuned_study(best: float) -> list[dict]:
    grid = [0.001, 0.01, 0.1, 1.0, 10.0]
    rows = [
        row("a", 0.9 - 0.1 * abs(math.log10(value / best)), seed, "tuning", value) for value in grid for seed in (7, 8)
    ]
    rows += [row("a", 0.8, seed, "default", 0.1) for seed in range(3)]
    return rows + [row("a", 0.9, seed, "tuned", best) for seed in range(3)]


def test_the_tuned_trainings_are_reported_and_the_default_stands_beside():
    found = verdicts.judge(tuned_study(1.0), "a", 0.1)["a"]
    assert (found.value, found.score.mean) == (1.0, pytest.approx(0.9))
    assert (found.default_value, found.default.mean) == (0.1, pytest.approx(0.8))


def test_an_optimum_at_the_edge_is_not_bracketed():
    inside, edge = (verdicts.judge(tuned_study(best), "a", 0.1) for best in (1.0, 10.0))
    assert (inside["a"].bracketed, edge["a"].bracketed) == (True, False)
    assert "not bracketed" in edge.words()[0]
    assert "not bracketed" not in inside.words()[0]


def test_the_budget_goes_from_the_default_outwards():
    assert budget.outwards([1, 0.1, 10, 0.01, 100], 1) == [1, 0.1, 10, 0.01, 100]
    assert budget.outwards([0.0, 0.2, 0.5], 0.2) == [0.2, 0.0, 0.5]
    spent = {one.trials: one.mean for one in verdicts.judge(tuned_study(10.0), "a", 0.1)["a"].budget}
    assert spent == pytest.approx({1: 0.7, 3: 0.8, 5: 0.9})


def test_a_trial_is_chosen_on_validation_and_scored_on_held_out_images():
    rows = tuned_study(1.0)
    for one in rows:
        if one["setting"] == "tuning" and one["value"] == 0.01:
            one["held_out_accuracy"] = 1.0  # which nobody who chooses may see
    assert verdicts.judge(rows, "a", 0.1)["a"].budget[-1].mean == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("training", "held_out", "best", "name"),
    [
        (0.99, 0.98, 1.0, "fits"),
        (1.0, 0.9, 1.0, "overfits"),
        (0.9, 0.9, 1.0, "underfits"),
        (0.9, 0.8, 1.0, "under- and overfits"),
    ],
)
def test_fits_are_named_by_the_rule(training, held_out, best, name):
    assert verdicts.fit(training, held_out, best) == name


def test_less_is_better_of_other_measures():
    rows = [
        row(name, 0.5, seed, held_out_nll=nll + 0.01 * seed, training_nll=nll)
        for name, nll in (("a", 0.5), ("b", 0.2))
        for seed in range(3)
    ]
    findings = verdicts.judge(rows, "a", math.log(10), measure="nll", margin=0.01)
    assert findings["b"].word == "better"
    assert "points" not in findings.words()[1]
    assert findings.ranked()[0].variant == "b"


def test_a_table_of_pandas_is_taken_too():
    rows = study(a=[0.9, 0.91, 0.92], b=[0.8, 0.81, 0.82])
    for one in rows:
        one["value"] = None
    assert verdicts.judge(pd.DataFrame(rows), "a", 0.1) == verdicts.judge(rows, "a", 0.1)


def test_what_cannot_be_compared_is_refused():
    rows = study(a=[0.9, 0.91, 0.92], b=[0.8, 0.81, 0.82])
    with pytest.raises(InputError, match="'c' is not among the variants: a, b"):
        verdicts.judge(rows, "c", 0.1)
    with pytest.raises(InputError, match=r"b has the seeds \[0, 1\]"):
        verdicts.judge(rows[:-1], "a", 0.1)
    with pytest.raises(InputError, match="two trainings"):
        verdicts.judge([*rows, rows[0]], "a", 0.1)
    with pytest.raises(InputError, match="unknown setting 'best'"):
        verdicts.judge([{**rows[0], "setting": "best"}], "a", 0.1)
