"""The gate's promise over the whole life of a test set."""

import functools
import json

import numpy as np
import pytest
from scipy.stats import binom

from flows.project.errors import UnavailableError
from flows.promotion import decisions
from flows.statistics import paired

ALPHA = 0.05
exact = functools.cache(paired.mcnemar)


def passes(wins: int, losses: int, number: int) -> bool:
    return wins > losses and exact(wins, losses) < paired.share_of_alpha(ALPHA, number)


@pytest.mark.parametrize("hard", [0.02, 0.1, 0.4])
def test_sixty_retrains_without_any_difference_promote_no_more_often_than_alpha(hard):
    """Models that are right on an image with the same chance each, of which a share is less than sure."""
    generator = np.random.default_rng(0)
    lives, promoted = 300, 0
    for _ in range(lives):
        chance = np.where(generator.random(500) < hard, generator.random(500), 1.0)
        champion, ever = generator.random(500) < chance, False
        for number in range(1, 61):
            challenger = generator.random(500) < chance
            wins, losses = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
            if passes(wins, losses, number):
                champion, ever = challenger, True
        promoted += ever
    assert promoted <= binom.ppf(0.999, lives, ALPHA)


@pytest.mark.parametrize("differing", [0.02, 0.03, 0.06])
def test_a_gain_of_two_points_is_still_found_at_the_thirtieth_decision(differing):
    shares = [(differing + 0.02) / 2, (differing - 0.02) / 2, 1 - differing]
    drawn = np.random.default_rng(0).multinomial(10_000, shares, size=300).tolist()
    assert all(passes(wins, losses, 30) for wins, losses, _ in drawn)


class Model:
    """A registry in memory, as far as decisions are counted there."""

    dataset = "digits"

    def __init__(self) -> None:
        self.tags, self.made = {}, []

    def describe(self):
        return {}, self.tags

    def versions(self):
        return self.made

    def set_tag(self, key, value):
        self.tags[key] = value


def decision(challenger: int, champion: int, number: int | None = None, test: str = "a" * 64, day: int = 1) -> dict:
    numbers = {"p_exact": 0.5, "wins": 30, "losses": 16, "test_images": 1000}
    return {
        "challenger": str(challenger), "champion": str(champion), "test_sha256": test,
        "decided_at": f"2026-01-{day:02}", "numbers": numbers | ({"number": number} if number else {}),
    }  # fmt: skip


def judge(model: Model, challenger: int, champion: int, test: str = "a" * 64) -> int:
    number = decisions.number_of(model, test, str(challenger), str(champion))
    decisions.note(model, decision(challenger, champion, number, test))
    return number


def test_decisions_on_the_same_test_images_are_counted():
    model = Model()
    assert [judge(model, version, 1) for version in (2, 3, 4)] == [1, 2, 3]
    assert judge(model, 3, 1) == 2  # the same two, asked again
    assert judge(model, 3, 4) == 4  # against another champion
    assert judge(model, 5, 4, test="b" * 64) == 1  # new test images
    assert [entry["number"] for entry in decisions.on(model, "a" * 64)] == [1, 2, 3, 4]


def test_what_compared_nothing_is_not_counted():
    model = Model()
    decisions.note(model, decision(2, 1) | {"numbers": {}})
    decisions.note(model, decision(2, 1) | {"numbers": {"test_images": 10}})  # a first model, without a champion
    assert model.tags == {}


def test_decisions_from_before_the_count_are_counted_too():
    model = Model()
    model.made = [
        {"version": "2", "tags": {decisions.DECISION: json.dumps(decision(2, 1, day=2))}},
        {"version": "3", "tags": {decisions.DECISION: json.dumps(decision(3, 1, day=1))}},
        {"version": "4", "tags": {decisions.DECISION: json.dumps(decision(4, 1, test="b" * 64))}},
        {"version": "5", "tags": {}},
    ]
    assert [entry["challenger"] for entry in decisions.on(model, "a" * 64)] == ["3", "2"]
    assert judge(model, 2, 1) == 2
    assert judge(model, 6, 1) == 3
    model.made = []  # versions that somebody deleted
    assert judge(model, 7, 1) == 4


def test_two_decisions_never_have_one_number():
    model = Model()
    number = decisions.number_of(model, "a" * 64, "2", "1")
    judge(model, 3, 1)
    with pytest.raises(UnavailableError, match="at the same moment: try again"):
        decisions.note(model, decision(2, 1, number))


def test_the_outlook_says_what_the_next_decision_needs():
    model = Model()
    assert decisions.outlook([], ALPHA) == {
        "decisions": 0, "number": 1, "alpha": paired.share_of_alpha(ALPHA, 1), "worn": False,
    }  # fmt: skip
    for version in range(2, 6):
        judge(model, version, 1)
    found = decisions.outlook(decisions.on(model, "a" * 64), ALPHA)
    assert (found["decisions"], found["number"], found["differing"], found["images"]) == (4, 5, 46, 1000)
    assert passes(found["wins"], 46 - found["wins"], 5)
    assert not passes(found["wins"] - 1, 47 - found["wins"], 5)
    assert passes(found["fewest"], 0, 5)
    assert not passes(found["fewest"] - 1, 0, 5)


def test_a_test_set_wears_out_once():
    worn = [decisions.worn(ALPHA, number) for number in range(1, 200)]
    assert worn == sorted(worn)
    assert not worn[29]
    assert worn[59]
