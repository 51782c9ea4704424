"""Statistics of paired answers: symmetric, exact where they say so, and right as often as they claim."""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from flows.statistics.paired import (
    accuracy_by_class,
    confidence_text,
    fewest_wins,
    mcnemar,
    score_interval,
    share_of_alpha,
)


def chance(heads: int, throws: int) -> float:
    """Of so many heads of a fair coin."""
    return math.comb(throws, heads) / 2**throws


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (3, 4), (20, 9), (200, 150)])
def test_who_is_first_is_irrelevant(wins, losses):
    assert mcnemar(wins, losses) == pytest.approx(mcnemar(losses, wins))
    low, high = score_interval(wins, losses, 1000, 0.95)
    other_low, other_high = score_interval(losses, wins, 1000, 0.95)
    assert (low, high) == pytest.approx((-other_high, -other_low), abs=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (5, 0), (3, 4), (20, 9), (40, 60)])
def test_p_is_that_of_a_fair_coin(wins, losses):
    throws, fewer = wins + losses, min(wins, losses)
    tail = sum(chance(heads, throws) for heads in range(fewer + 1))
    assert mcnemar(wins, losses) == pytest.approx(2 * tail)


@pytest.mark.parametrize("each", [0, 1, 7, 300])
def test_a_tie_is_no_difference(each):
    assert mcnemar(each, each) == pytest.approx(1)
    low, high = score_interval(each, each, 1000, 0.95)
    assert low <= 0 <= high


def test_p_falls_with_the_wins():
    ps = [mcnemar(wins, 10) for wins in range(10, 60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(ps))


def test_equal_classifiers_are_told_apart_no_more_often_than_alpha_says():
    for differing in range(1, 80):
        told = [wins for wins in range(differing + 1) if mcnemar(wins, differing - wins) < 0.05]
        assert sum(chance(wins, differing) for wins in told) <= 0.05


interval = functools.cache(score_interval)


@pytest.mark.parametrize(("wins", "losses"), [(0.01, 0.005), (0.005, 0.005), (0.02, 0.0), (0.004, 0.001), (0.03, 0.01)])
def test_the_interval_holds_the_truth_as_often_as_it_says(wins, losses):
    """Summed over all that is likely to be seen of 359 images, of which few differ."""
    held = total = 0.0
    for won in range(30):
        for lost in range(20):
            # Of all images so many are won, and of the others so many lost.
            chance = binom.pmf(won, 359, wins) * binom.pmf(lost, 359 - won, losses / (1 - wins))
            if chance > 1e-5:
                low, high = interval(won, lost, 359, 0.95)
                held += chance * (low <= wins - losses <= high)
                total += chance
    assert total > 0.998
    assert held / total > 0.94


@pytest.mark.parametrize(("wins", "losses"), [(9, 4), (30, 12), (3, 1)])
def test_at_its_ends_the_score_is_that_of_the_level(wins, losses):
    """With the share of losses that is most likely under a difference found by looking at all of them."""
    images = 200
    for end, sign in zip(score_interval(wins, losses, images, 0.95), (1, -1)):
        share = np.linspace(max(0, -end) + 1e-9, (1 - end) / 2 - 1e-9, 2_000_001)
        rest = images - wins - losses
        likelihood = wins * np.log(share + end) + losses * np.log(share) + rest * np.log(1 - 2 * share - end)
        best = share[likelihood.argmax()]
        deviation = math.sqrt(images * (2 * best + end - end**2))
        assert (wins - losses - images * end) / deviation == pytest.approx(sign * norm.isf(0.025), abs=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.03])
@pytest.mark.parametrize("images", [20, 359, 10_000])
def test_zero_is_not_in_the_interval_where_the_exact_test_tells_the_two_apart(images, alpha):
    for losses in (0, 1, 3):
        wins = next(wins for wins in range(losses, images) if mcnemar(wins, losses) < alpha)
        assert score_interval(wins, losses, images, 1 - alpha)[0] > 0


def test_an_interval_reaches_no_further_than_all_and_nothing():
    for wins, losses in ((0, 0), (10, 0), (0, 10), (5, 5)):
        low, high = score_interval(wins, losses, 10, 0.95)
        assert -1 <= low <= (wins - losses) / 10 <= high <= 1


def test_the_levels_of_all_decisions_sum_to_alpha():
    spent = sum(share_of_alpha(0.05, number) for number in range(1, 100_000))
    assert 0.0499 < spent < 0.05


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("differing", [1, 6, 7, 46, 300])
def test_the_fewest_wins_are_enough_and_one_less_is_not(differing, alpha):
    wins = fewest_wins(differing, alpha)
    if wins is None:
        assert mcnemar(differing, 0) >= alpha
    else:
        assert mcnemar(wins, differing - wins) < alpha <= mcnemar(wins - 1, differing - wins + 1)


def test_a_level_says_all_that_it_differs_by():
    assert [confidence_text(alpha) for alpha in (0.05, 0.0304, 0.0012, 3.4e-5)] == ["95%", "97%", "99.88%", "99.9966%"]


def test_classes_add_up_to_the_whole_and_an_empty_one_is_left_out():
    generator = np.random.default_rng(3)
    labels = generator.choice([0, 1, 3], size=500)
    first, second = generator.random(500) < 0.9, generator.random(500) < 0.8
    classes = accuracy_by_class(first, second, labels, ["a", "b", "empty", "d"])
    assert list(classes) == ["a", "b", "d"]
    assert sum(numbers["images"] for numbers in classes.values()) == 500
    total = sum(numbers["images"] * numbers["difference"] for numbers in classes.values()) / 500
    assert total == pytest.approx(first.mean() - second.mean())
    swapped = accuracy_by_class(second, first, labels, ["a", "b", "empty", "d"])
    assert swapped["a"]["difference"] == -classes["a"]["difference"]
