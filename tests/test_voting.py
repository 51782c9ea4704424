"""Votes, and what is fitted to likelihoods: weights of networks, and temperatures."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules import scores
from lightning_modules.ensembles import greedy, mixture, temperature, votes

IMAGES, CLASSES = 200, 4


def opinions(count: int, seed: int = 0, images: int = IMAGES, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Log-probabilities of networks of different skill, networks × images × classes, and labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=draw)
    truth = torch.nn.functional.one_hot(labels, classes).float()
    skill = torch.linspace(0.2, 2.0, count)[:, None, None]
    noise = torch.randn(count, images, classes, generator=draw)
    return (skill * truth + noise).log_softmax(2), labels


def equal(count: int) -> torch.Tensor:
    return torch.full((count,), 1 / count)


def nll(log_probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return scores.score(log_probabilities, labels)["nll"]


def test_a_soft_vote_is_the_mean_probability():
    stacked, _ = opinions(5)
    torch.testing.assert_close(votes.soft_vote(stacked).exp(), stacked.exp().mean(0))
    # In double precision it is exact to double precision.
    torch.testing.assert_close(
        votes.soft_vote(stacked.double()).exp(), stacked.double().exp().mean(0), atol=1e-15, rtol=0
    )


def test_a_soft_vote_never_has_a_worse_nll_than_its_members_have_on_average():
    stacked, labels = opinions(5)
    assert nll(votes.soft_vote(stacked), labels) <= np.mean([nll(one, labels) for one in stacked])


def test_a_soft_vote_of_the_certain_and_the_impossible():
    sure = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]], [[0.0, -math.inf]]])
    torch.testing.assert_close(votes.soft_vote(sure).exp(), torch.tensor([[2 / 3, 1 / 3]]))


def test_a_hard_vote_is_the_share_of_first_choices_with_one_vote_for_all():
    choices = torch.tensor([[0, 1], [0, 2], [1, 2]])  # networks × images
    stacked = (torch.nn.functional.one_hot(choices, 3) * 5.0).log_softmax(2)
    third = 1 / 3
    expected = torch.tensor([[2 + third, 1 + third, third], [third, 1 + third, 2 + third]]) / 4
    torch.testing.assert_close(votes.hard_vote(stacked).exp(), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("preferred", [0, 1])
@pytest.mark.parametrize("margin", [0.3, 0.01])
def test_a_tie_of_a_hard_vote_goes_to_the_better_mean_probability(preferred, margin):
    other = 1 - preferred
    sure, unsure = torch.zeros(3), torch.zeros(3)
    sure[preferred], sure[other] = 0.6 + margin, 0.4 - margin
    unsure[other], unsure[preferred] = 0.6, 0.4
    stacked = torch.stack([sure, unsure])[:, None].clamp_min(1e-6).log()
    assert votes.hard_vote(stacked).argmax(1).tolist() == [preferred]


def test_a_majority_wins_however_sure_the_minority_is():
    many = torch.tensor([0.5001, 0.4999]).log().expand(500, 1, 2)
    few = torch.tensor([1e-6, 1 - 1e-6]).log().expand(499, 1, 2)
    assert votes.hard_vote(torch.cat([many, few])).argmax(1).tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fitted_weights_are_a_mixture(count):
    fitted = mixture.fit_weights(*opinions(count))
    assert fitted.shape == (count,)
    assert (fitted >= 0).all()
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_fitted_weights_beat_equal_ones_and_the_best_member_where_they_were_fitted(seed):
    stacked, labels = opinions(5, seed)
    weighted = nll(votes.soft_vote(stacked, mixture.fit_weights(stacked, labels)), labels)
    assert weighted <= nll(votes.soft_vote(stacked), labels) + 1e-6
    assert weighted <= min(nll(one, labels) for one in stacked) + 1e-5


def test_fitted_weights_are_the_best_of_a_grid():
    stacked, labels = opinions(2)
    fitted = mixture.fit_weights(stacked, labels)
    grid = [torch.tensor([share, 1 - share]) for share in torch.linspace(0, 1, 101)]
    best = min(grid, key=lambda given: nll(votes.soft_vote(stacked, given), labels))
    assert fitted == pytest.approx(best, abs=0.01)


def test_a_member_that_knows_nothing_gets_no_weight():
    stacked, labels = opinions(3)
    wrong = torch.nn.functional.one_hot((labels + 1) % CLASSES, CLASSES).float().mul(20).log_softmax(1)
    fitted = mixture.fit_weights(torch.cat([stacked, wrong[None]]), labels)
    assert fitted[3] < 1e-3
    assert fitted[2] == fitted.max()


def test_a_member_that_finds_a_truth_impossible_does_not_spoil_the_weights():
    stacked, labels = opinions(2)
    stacked[0, 0] = -math.inf
    fitted = mixture.fit_weights(stacked, labels)
    assert fitted.isfinite().all()
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)


def mixture_nll(stacked: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    likelihoods = stacked.double()[:, torch.arange(len(labels)), labels].exp()
    return -(weights.double() @ likelihoods).log().mean().item()


@pytest.mark.parametrize("likeness", [1.0, 0.1, 0.01, 0.0])
@pytest.mark.parametrize(("count", "images"), [(2, 500), (7, 500), (50, 500), (60, 20), (3, 1)])
def test_no_weights_are_better_than_the_fitted_ones(count, images, likeness):
    """The duality gap bounds what is left, also among networks that are nearly the same one."""
    draw = torch.Generator().manual_seed(count)
    labels = torch.randint(CLASSES, (images,), generator=draw)
    truth = torch.nn.functional.one_hot(labels, CLASSES)
    shared = 2 * truth + torch.randn(images, CLASSES, generator=draw)
    stacked = (shared + likeness * torch.randn(count, images, CLASSES, generator=draw)).log_softmax(2)
    fitted = mixture.fit_weights(stacked, labels)
    assert fitted.min() >= 0
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)
    likelihoods = stacked.double()[:, torch.arange(images), labels].exp()
    gap = (likelihoods / (fitted.double() @ likelihoods)).mean(1).max().item() - 1
    assert gap < mixture.GAP + 1e-7  # which single precision adds


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_are_those_of_expectation_maximisation_written_out(seed):
    """Smyth and Wolpert's steps as they stand in the paper: each image's shares, then their means."""
    stacked, labels = opinions(5, seed)
    likelihoods = stacked.double()[:, torch.arange(IMAGES), labels].exp()
    weights = torch.full((5,), 1 / 5, dtype=torch.float64)
    for _ in range(500):
        joint = weights[:, None] * likelihoods
        weights = (joint / joint.sum(0)).mean(1)
    fitted = mixture_nll(stacked, labels, mixture.fit_weights(stacked, labels))
    found = mixture_nll(stacked, labels, weights)
    assert found - 1e-3 < fitted <= found + 1e-7  # which single precision adds


def largest(call: Callable[[], object]) -> int:
    """Bytes of the largest tensor that is made within the call."""

    class Sizes(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                Sizes.found = max(Sizes.found, made.numel() * made.element_size())
            return made

    with Sizes():
        call()
    return Sizes.found


@pytest.mark.parametrize(("count", "images"), [(300, 50), (100, 400)])
def test_a_vote_of_many_takes_little_more_memory_than_their_probabilities(count, images):
    """A thousand networks may fill the memory: no step may hold a multiple of what they predict."""
    many = torch.randn(count, images, CLASSES).log_softmax(2)
    labels = torch.arange(images) % CLASSES
    for call in (
        lambda: votes.hard_vote(many),
        lambda: votes.soft_vote(many),
        lambda: mixture.fit_weights(many, labels),
        lambda: greedy.fit_weights(many, labels, 5),
        lambda: temperature.fit_temperatures(many, labels),
        lambda: scores.disagreement(many),
    ):
        assert largest(call) <= many.numel() * 4  # bytes of a float32


def test_points_are_given_by_rank():
    first, second = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.5, 0.4])
    shares = votes.borda_count(torch.stack([first, second])[:, None].log()).exp()[0]
    # 2, 1, 0 and 0, 2, 1 points, and one more each.
    torch.testing.assert_close(shares, torch.tensor([3, 4, 2]) / 9, atol=0.02, rtol=0)
    assert shares[0] < shares[1]


@pytest.mark.parametrize("count", [2, 100, 1000])
def test_a_tie_of_points_goes_to_the_better_mean_probability_and_a_point_counts_more(count):
    """Half of the networks prefer one class a little, half the other one very much."""
    little, much = torch.tensor([0.4, 0.3, 0.2, 0.1]).log(), torch.tensor([0.05, 0.9, 0.03, 0.02]).log()
    tied = torch.cat([little.expand(count // 2, 1, 4), much.expand(count // 2, 1, 4)])
    assert votes.borda_count(tied).argmax(1).tolist() == [1]
    one_more = torch.cat([tied, torch.tensor([[[0.28, 0.27, 0.25, 0.2]]]).log()])
    assert votes.borda_count(one_more).argmax(1).tolist() == [0]


def test_a_geometric_mean_is_that_of_the_probabilities_normalised():
    stacked, _ = opinions(4)
    expected = stacked.double().exp().prod(0) ** (1 / 4)
    torch.testing.assert_close(
        votes.geometric_mean(stacked).double().exp(), expected / expected.sum(1, keepdim=True), atol=1e-6, rtol=1e-5
    )


def test_a_network_that_finds_all_but_one_class_impossible_leaves_the_others_a_say():
    certain = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]]])
    torch.testing.assert_close(votes.geometric_mean(certain).exp(), torch.tensor([[0.5, 0.5]]))


def test_greedy_choice_is_that_of_trying_all_in_each_round():
    stacked, labels = opinions(4, images=50)
    chosen: list[int] = []
    best = (math.inf, 0)
    for _ in range(7):
        tried = [nll(votes.soft_vote(stacked[[*chosen, number]]), labels) for number in range(4)]
        chosen.append(int(np.argmin(tried)))
        best = min(best, (min(tried), len(chosen)))
    expected = torch.bincount(torch.tensor(chosen[: best[1]]), minlength=4) / best[1]
    torch.testing.assert_close(greedy.fit_weights(stacked, labels, 7), expected)


def test_greedy_choice_is_never_worse_than_the_best_network_and_comes_close_to_the_best_weights():
    stacked, labels = opinions(6)
    greedily = nll(votes.soft_vote(stacked, greedy.fit_weights(stacked, labels, 100)), labels)
    assert greedily <= min(nll(one, labels) for one in stacked) + 1e-6
    assert greedily <= nll(votes.soft_vote(stacked, mixture.fit_weights(stacked, labels)), labels) + 1e-3


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_the_temperature_is_found(true):
    """Of networks whose logits were multiplied by it: as good as a fine grid can do."""
    stacked, labels = opinions(3, images=2000)
    calibrated = temperature.scaled(stacked, temperature.fit_temperatures(stacked, labels))
    heated = (calibrated * true).log_softmax(2)
    assert temperature.fit_temperatures(heated, labels) == pytest.approx(torch.full((3,), true), rel=1e-3)


def test_no_temperature_of_a_grid_is_better():
    stacked, labels = opinions(1, images=100)
    fitted = temperature.fit_temperatures(stacked, labels)
    best = nll(temperature.scaled(stacked, fitted)[0], labels)
    for other in torch.linspace(0.1, 10, 200):
        assert best <= nll(temperature.scaled(stacked, other[None])[0], labels) + 1e-6


def test_the_temperature_of_who_is_always_right_or_always_wrong_ends_at_a_bound():
    labels = torch.arange(4)
    right = torch.nn.functional.one_hot(labels, 4).float().mul(3).log_softmax(1)
    fitted = temperature.fit_temperatures(torch.stack([right, right.flip(1)]), labels)
    assert fitted == pytest.approx(torch.tensor([temperature.LEAST, temperature.MOST]), rel=1e-3)


def test_temperatures_of_certain_and_of_impossible_are_finite():
    certain = torch.tensor([[[0.0, -math.inf], [-math.inf, 0.0]], [[-math.inf, 0.0], [0.0, -math.inf]]])
    fitted = temperature.fit_temperatures(certain, torch.tensor([0, 1]))
    assert fitted.isfinite().all()
    assert temperature.scaled(certain, fitted).isfinite().all()
