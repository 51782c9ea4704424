"""Statistics of paired answers: symmetric, exact where they say so, and right as often as they claim."""

import itertools
import math

import numpy as np
import pytest

from flows.comparison import bootstrap_interval, by_class, mcnemar


def chance(heads: int, throws: int) -> float:
    """Of so many heads of a fair coin."""
    return math.comb(throws, heads) / 2**throws


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (3, 4), (20, 9), (200, 150)])
def test_who_is_first_is_irrelevant(wins, losses):
    assert mcnemar(wins, losses) == pytest.approx(mcnemar(losses, wins))
    low, high = bootstrap_interval(wins, losses, 1000, 0.95)
    other_low, other_high = bootstrap_interval(losses, wins, 1000, 0.95)
    assert (low, high) == pytest.approx((-other_high, -other_low), abs=0.002)


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (5, 0), (3, 4), (20, 9), (40, 60)])
def test_p_is_that_of_a_fair_coin(wins, losses):
    throws, fewer = wins + losses, min(wins, losses)
    tail = sum(chance(heads, throws) for heads in range(fewer + 1))
    assert mcnemar(wins, losses) == pytest.approx(2 * tail)


@pytest.mark.parametrize("each", [0, 1, 7, 300])
def test_a_tie_is_no_difference(each):
    assert mcnemar(each, each) == pytest.approx(1)
    low, high = bootstrap_interval(each, each, 1000, 0.95)
    assert low <= 0 <= high


def test_p_falls_with_the_wins():
    ps = [mcnemar(wins, 10) for wins in range(10, 60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(ps))


def test_equal_classifiers_are_told_apart_no_more_often_than_alpha_says():
    for differing in range(1, 80):
        told = [wins for wins in range(differing + 1) if mcnemar(wins, differing - wins) < 0.05]
        assert sum(chance(wins, differing) for wins in told) <= 0.05


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = 0
    for sample in range(1000):
        wins, losses, _ = generator.multinomial(2000, [0.06, 0.04, 0.90])
        low, high = bootstrap_interval(wins, losses, 2000, 0.9, seed=sample)
        held += low <= 0.02 <= high
    assert 0.87 < held / 1000 < 0.93


def test_the_interval_is_that_of_images_drawn_one_by_one():
    wins, losses, images = 30, 12, 400
    outcomes = np.repeat([1, -1, 0], [wins, losses, images - wins - losses])
    drawn = np.random.default_rng(2).choice(outcomes, size=(10_000, images)).mean(1)
    expected = np.quantile(drawn, [0.025, 0.975])
    assert bootstrap_interval(wins, losses, images, 0.95) == pytest.approx(expected, abs=2 / images)


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_interval(9, 4, 100, 0.95) == bootstrap_interval(9, 4, 100, 0.95)


def test_classes_add_up_to_the_whole_and_an_empty_one_is_left_out():
    generator = np.random.default_rng(3)
    labels = generator.choice([0, 1, 3], size=500)
    first, second = generator.random(500) < 0.9, generator.random(500) < 0.8
    classes = by_class(first, second, labels, ["a", "b", "empty", "d"])
    assert list(classes) == ["a", "b", "d"]
    assert sum(numbers["images"] for numbers in classes.values()) == 500
    total = sum(numbers["images"] * numbers["difference"] for numbers in classes.values()) / 500
    assert total == pytest.approx(first.mean() - second.mean())
    swapped = by_class(second, first, labels, ["a", "b", "empty", "d"])
    assert swapped["a"]["difference"] == -classes["a"]["difference"]
