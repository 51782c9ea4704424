"""Two-sample tests: false alarms are as rare as alpha says, and a p-value is no effect size."""

import numpy as np
import pytest

from flows.two_sample import classifier_scores, compare
from lightning_modules.errors import InputError


def normal(seed: int, count: int, shift: float = 0.0, features: int | None = None) -> np.ndarray:
    size = count if features is None else (count, features)
    return np.random.default_rng(seed).normal(shift, 1, size)


def test_false_alarms_are_no_more_frequent_than_alpha():
    alarms = 0
    for seed in range(200):
        quantities = {str(k): (normal(1000 * seed + k, 60), normal(1000 * seed + 500 + k, 300)) for k in range(10)}
        alone = {"one": (normal(1000 * seed + 998, 60), normal(1000 * seed + 999, 300))}
        alarms += any(result.p < 0.05 for result in compare({"many": quantities, "alone": alone}))
    # Of 200 at 0.05, 20 or more come up once in a thousand times.
    assert 1 <= alarms < 20


def test_the_correction_gives_each_view_the_same_share():
    values = normal(0, 100), normal(1, 100, shift=0.5)
    [single] = compare({"a": {"x": values}})
    both = compare({"a": {"x": values}, "b": {str(number): values for number in range(4)}})
    assert both[0].p == pytest.approx(2 * single.p)
    assert [result.p / single.p for result in both[1:]] == pytest.approx([8] * 4)
    assert all(result.statistic == single.statistic for result in both)


def test_a_large_sample_makes_a_small_difference_sure_but_not_large():
    few = compare({"a": {"x": (normal(0, 100), normal(1, 100, shift=0.1))}})[0]
    many = compare({"a": {"x": (normal(2, 50_000), normal(3, 50_000, shift=0.1))}})[0]
    assert few.p > 0.05
    assert many.p < 1e-9
    assert many.statistic < 0.1


def test_a_p_value_is_at_most_one():
    same = normal(0, 50)
    result = compare({"a": {str(number): (same, same) for number in range(20)}})[0]
    assert (result.statistic, result.p, result.auc) == (0, 1, None)


def auc(incoming: np.ndarray, reference: np.ndarray) -> float:
    [result] = compare({"embeddings": {"score": classifier_scores(incoming, reference, seed=0)}})
    return result.auc


def test_a_classifier_tells_apart_what_differs_and_only_that():
    assert auc(normal(0, 400, features=300), normal(1, 900, features=300)) == pytest.approx(0.5, abs=0.1)
    moved = normal(0, 400, features=300) + np.eye(300)[0] * 60
    assert auc(moved, normal(1, 900, features=300)) > 0.9


def test_few_images_and_features_that_never_change_are_no_obstacle():
    assert auc(np.zeros((20, 3)), np.zeros((20, 3))) == 0.5
    assert auc(np.ones((20, 1)), np.zeros((21, 1))) == 1


def test_scores_are_of_images_that_the_classifier_was_not_trained_on():
    incoming, reference = classifier_scores(normal(0, 51, features=4), normal(1, 101, features=4), seed=0)
    assert (len(incoming), len(reference)) == (25, 50)
    again = classifier_scores(normal(0, 51, features=4), normal(1, 101, features=4), seed=0)
    np.testing.assert_array_equal(incoming, again[0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused_and_not_called_the_same(wrong):
    good, bad = normal(0, 50), normal(1, 50)
    bad[:2] = wrong
    with pytest.raises(InputError, match="confidence is no finite number for 2 of 50 incoming images"):
        compare({"predictions": {"confidence": (bad, good)}})
    with pytest.raises(InputError, match="confidence is no finite number for 2 of 50 held-out images"):
        compare({"predictions": {"confidence": (good, bad)}})
    with pytest.raises(InputError, match="an embedding is no finite number for 1 of 50 incoming images"):
        classifier_scores(np.where(np.arange(50)[:, None] == 3, wrong, normal(2, 50, features=4)), good[:, None], 0)
