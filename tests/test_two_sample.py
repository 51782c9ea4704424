"""Two-sample tests: false alarms are as rare as alpha says, and a p-value is no effect size."""

import numpy as np
import pytest

from flows.project.errors import InputError
from flows.statistics.two_sample import class_shares, classifier_scores, compare


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


# How often each class occurs


def samples(generator, incoming: int, reference: int, held_out: int, shares, then, right: float = 0.9) -> tuple:
    """What `class_shares` takes, of a classifier that has so many of each class right and the others anywhere."""

    def predicted(labels: np.ndarray) -> np.ndarray:
        return np.where(generator.random(len(labels)) < right, labels, generator.choice(len(shares), len(labels)))

    known = generator.choice(len(shares), held_out, p=shares)
    return (
        predicted(generator.choice(len(shares), incoming, p=then)), predicted(known[:reference]), known[:reference],
        known,
    )  # fmt: skip


EVEN = np.full(10, 0.1)
SKEWED = 1 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()


@pytest.mark.parametrize("right", [0.95, 0.5])
@pytest.mark.parametrize(
    ("incoming", "reference", "held_out", "shares"),
    [(200, 1000, 16_000, EVEN), (1000, 500, 500, EVEN), (1000, 1000, 16_000, SKEWED), (30, 100, 100, SKEWED)],
)
def test_classes_as_frequent_as_before_raise_no_more_alarms_than_they_may(incoming, reference, held_out, shares, right):
    generator = np.random.default_rng(3)
    ps = [class_shares(*samples(generator, incoming, reference, held_out, shares, shares, right)).p for _ in range(300)]
    # Of 300 at 0.05, 29 or more come up once in a thousand times; it is an approximation, which is allowed some more.
    assert sum(p < 0.05 for p in ps) < 32
    assert sum(p < 0.0025 for p in ps) < 6


@pytest.mark.parametrize(
    ("times", "right", "least"), [(1.5, 0.95, 0.3), (2, 0.95, 0.95), (2, 0.6, 0.15), (3, 0.6, 0.9)]
)
def test_a_class_that_became_more_frequent_is_seen_and_estimated_through_the_confusion(times, right, least):
    then = EVEN.copy()
    then[3] *= times
    then /= then.sum()
    generator = np.random.default_rng(4)
    found = [class_shares(*samples(generator, 1000, 1000, 16_000, EVEN, then, right)) for _ in range(100)]
    assert np.mean([one.p < 0.0025 for one in found]) > least
    assert np.mean([one.estimated for one in found], axis=0) == pytest.approx(then, abs=0.015)
    [result] = compare({}, found[0])
    change = np.abs(np.subtract(found[0].estimated, found[0].held_out))
    assert (result.view, result.statistic, result.p) == ("labels", change.max(), found[0].p)


def test_the_classes_are_one_view_among_the_others():
    shares = class_shares(*samples(np.random.default_rng(5), 200, 300, 300, EVEN, EVEN))
    values = normal(0, 100), normal(1, 100, shift=0.5)
    [alone], (first, last) = compare({"a": {"x": values}}), compare({"a": {"x": values}}, shares)
    assert first.p == pytest.approx(2 * alone.p)
    assert last.p == pytest.approx(min(1, 2 * shares.p))


def test_which_number_a_class_has_is_irrelevant():
    given = samples(np.random.default_rng(6), 400, 600, 900, EVEN, EVEN)
    turned = class_shares(*(9 - values for values in given))
    shares = class_shares(*given)
    assert turned.p == pytest.approx(shares.p)
    assert turned.estimated == pytest.approx(shares.estimated[::-1], abs=1e-6)


def test_rare_classes_are_taken_together_and_a_single_one_says_nothing():
    shares = class_shares(*samples(np.random.default_rng(7), 1000, 1000, 16_000, SKEWED, SKEWED))
    assert shares.classes[-1] == -1
    assert shares.classes[:5] == [0, 1, 2, 3, 4]
    assert 10 < len(shares.classes) < 30
    assert sum(shares.held_out) == pytest.approx(1)
    nothing = np.zeros(30, int)
    assert class_shares(nothing, nothing, nothing, nothing).p == 1
    many = np.arange(1000)  # an image of each
    assert class_shares(many, many, many, many).p == 1


def test_a_class_that_was_never_predicted_before_is_seen():
    nothing = np.zeros(200, int)
    assert class_shares(nothing + 1, nothing, nothing, nothing).p < 1e-6


def test_classes_that_are_never_told_apart_keep_their_shares():
    """Two of three are predicted alike: what came in says nothing of the one against the other."""
    generator = np.random.default_rng(8)
    held_out = generator.choice(3, 3000, p=[0.5, 0.3, 0.2])
    shares = class_shares((held_out > 0).astype(int), (held_out > 0).astype(int), held_out, held_out)
    assert shares.estimated == pytest.approx(shares.held_out, abs=1e-3)
