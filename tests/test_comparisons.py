"""Student's t over few seeds, Holm's levels and the four words: right by SciPy's own tests, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from flows.statistics import comparisons, student

VALUES = [0.2, 0.5, -0.1, 0.9]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_interval_and_p_value_are_scipys(alpha):
    found, expected = student.interval(VALUES, alpha), stats.ttest_1samp(VALUES, 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(1 - alpha)))
    assert student.p_value(VALUES) == pytest.approx(expected.pvalue)


def test_an_interval_leaves_out_zero_exactly_where_the_p_value_is_below_its_level():
    generator = np.random.default_rng(0)
    for alpha in (0.05, 0.01):
        for _ in range(200):
            values = generator.normal(1, 1, 4).tolist()
            found = student.interval(values, alpha)
            assert (found.low > 0 or found.high < 0) == (student.p_value(values) < alpha)


def test_one_seed_and_seeds_that_agree():
    assert student.interval([0.3]) == student.Interval(0.3, -math.inf, math.inf, 0.95)
    assert student.interval([0.25] * 3) == student.Interval(0.25, 0.25, 0.25, 0.95)
    assert [student.p_value([value] * 3) for value in (0.0, 0.25)] == [1.0, 0.0]


def test_seeds_until_is_the_first_number_that_does():
    found = student.seeds_until(0.5, 1.0, 0.05, fewest=3)
    assert student.half_width(1.0, found, 0.05) < 0.5 <= student.half_width(1.0, found - 1, 0.05)
    assert student.seeds_until(100.0, 1.0, 0.05, fewest=4) == 4
    assert student.seeds_until(0.001, 1.0, 0.05, fewest=3) is None


def test_rounding_finds_the_step_of_an_accuracy():
    scores = [right / 360 for right in (340, 343, 344, 350)]
    assert student.rounding(scores) == pytest.approx(1 / 360 / math.sqrt(6))
    assert student.rounding([0.1 + 0.2, 0.3]) == 0  # the same number but for its last bit


def test_holms_levels_are_those_of_the_article():
    """Its procedure step by step: the smallest p-value at alpha / m, the next at alpha / (m - 1), until one fails."""
    levels = comparisons.holm({"a": 0.03, "b": 0.001, "c": 0.02, "d": 0.8}, 0.05)
    assert levels == pytest.approx({"b": 0.05 / 4, "c": 0.05 / 3, "a": 0.05 / 3, "d": 0.05 / 3})
    assert comparisons.holm({"a": 0.01, "b": 0.02}, 0.05) == pytest.approx({"a": 0.025, "b": 0.05})


def test_holm_rejects_what_bonferroni_does_and_more():
    for values in itertools.product([0.001, 0.012, 0.02, 0.2], repeat=3):
        p_values = dict(zip("abc", values))
        rejected = {name for name, level in comparisons.holm(p_values, 0.05).items() if p_values[name] < level}
        assert {name for name, p in p_values.items() if p < 0.05 / 3} <= rejected


def words(**differences: list[float]) -> dict[str, str]:
    return {name: one.word for name, one in comparisons.compare(differences, 0.1).items()}


def test_the_four_words():
    found = words(
        up=[1.0, 1.1, 1.2], down=[-1.0, -1.1, -1.2], same=[0.01, 0.0, -0.01], tiny=[0.051, 0.05, 0.049], open=[1, -1, 0]
    )
    assert found == {"up": "better", "down": "worse", "same": "equivalent", "tiny": "equivalent", "open": "cannot tell"}
    lower = comparisons.compare({"up": [1.0, 1.1, 1.2]}, 0.1, higher_is_better=False)
    assert lower["up"].word == "worse"


def test_two_seeds_tell_nothing_however_far_apart():
    found = comparisons.compare({"far": [10.0, 10.0001], "same": [0.0, 0.0]}, 0.1)
    assert {one.word for one in found.values()} == {"cannot tell"}
    assert {one.seeds for one in found.values()} == {3}
    assert all(math.isinf(one.interval.low) and math.isinf(one.interval.high) for one in found.values())


def test_the_number_of_seeds_that_would_decide_does():
    """With as many seeds, of the same mean and deviation, the word is another."""
    generator = np.random.default_rng(1)
    tried = 0
    for _ in range(50):
        values = generator.normal(0.3, 0.6, 4)
        one = comparisons.compare({"a": values.tolist()}, 0.1)["a"]
        if one.seeds and one.seeds > 4:
            tried += 1
            for seeds, decided in ((one.seeds, True), (one.seeds - 1, False)):
                more = generator.normal(size=seeds)
                more = values.mean() + (more - more.mean()) / more.std(ddof=1) * values.std(ddof=1)
                assert (comparisons.compare({"a": more.tolist()}, 0.1)["a"].word != "cannot tell") == decided
    assert tried > 10


def test_what_differs_by_the_margin_is_seldom_called_equivalent():
    generator, wrong = np.random.default_rng(2), 0
    for _ in range(1000):
        found = comparisons.compare({str(n): generator.normal(0.1, 0.01, 3).tolist() for n in range(5)}, 0.1)
        wrong += any(one.word == "equivalent" for one in found.values())
    assert wrong <= 1000 * 0.05 + 2 * math.sqrt(1000 * 0.05 * 0.95)
