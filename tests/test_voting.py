"""Ways to combine networks: an ensemble of one is its member, and nobody's place in the row counts."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules import names, scores, voting
from lightning_modules.voting import VOTES

IMAGES, CLASSES = 200, 4


def opinions(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of networks of different skill, networks × images × classes, and labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (IMAGES,), generator=draw)
    truth = torch.nn.functional.one_hot(labels, CLASSES).float()
    skill = torch.linspace(0.2, 2.0, count)[:, None, None]
    noise = torch.randn(count, IMAGES, CLASSES, generator=draw)
    return (skill * truth + noise).log_softmax(2), labels


def equal(count: int) -> torch.Tensor:
    return torch.full((count,), 1 / count)


def nll(log_probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return scores.score(log_probabilities, labels)["nll"]


def test_the_known_names_are_those_of_the_code():
    assert set(names.VOTES) == set(VOTES)


@pytest.mark.parametrize("method", VOTES)
def test_a_vote_is_a_log_probability(method):
    vote = VOTES[method](opinions(3)[0], equal(3))
    assert vote.shape == (IMAGES, CLASSES)
    assert vote.isfinite().all()
    assert vote.exp().sum(1) == pytest.approx(torch.ones(IMAGES), abs=1e-5)


@pytest.mark.parametrize("method", VOTES)
def test_an_ensemble_of_one_equals_its_member(method):
    alone, labels = opinions(1)
    vote = VOTES[method](alone, voting.fit_weights(alone, labels))
    assert torch.equal(vote.argmax(1), alone[0].argmax(1))
    if method != "hard_vote":
        assert torch.equal(vote, alone[0])


@pytest.mark.parametrize("method", VOTES)
def test_the_order_of_the_members_is_irrelevant(method):
    stacked, labels = opinions(4)
    fitted = voting.fit_weights(stacked, labels)
    vote = VOTES[method](stacked, fitted)
    for order in itertools.permutations(range(4)):
        again = VOTES[method](stacked[list(order)], fitted[list(order)])
        torch.testing.assert_close(again, vote, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            voting.fit_weights(stacked[list(order)], labels), fitted[list(order)], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("method", VOTES)
def test_members_that_agree_decide(method):
    one = opinions(1)[0]
    vote = VOTES[method](one.expand(5, -1, -1), equal(5))
    assert torch.equal(vote.argmax(1), one[0].argmax(1))


def test_a_soft_vote_is_the_mean_probability():
    stacked, _ = opinions(5)
    torch.testing.assert_close(voting.soft_vote(stacked).exp(), stacked.exp().mean(0))
    # In double precision it is exact to double precision.
    torch.testing.assert_close(
        voting.soft_vote(stacked.double()).exp(), stacked.double().exp().mean(0), atol=1e-15, rtol=0
    )


def test_a_soft_vote_never_has_a_worse_nll_than_its_members_have_on_average():
    stacked, labels = opinions(5)
    assert nll(voting.soft_vote(stacked), labels) <= np.mean([nll(one, labels) for one in stacked])


def test_a_soft_vote_of_the_certain_and_the_impossible():
    sure = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]], [[0.0, -math.inf]]])
    torch.testing.assert_close(voting.soft_vote(sure).exp(), torch.tensor([[2 / 3, 1 / 3]]))


def test_a_weighted_vote_is_the_weighted_mean_probability():
    stacked, _ = opinions(3)
    given = torch.tensor([0.5, 0.0, 0.5])
    expected = (stacked.exp() * given[:, None, None]).sum(0)
    torch.testing.assert_close(voting.weighted_vote(stacked, given).exp(), expected)
    torch.testing.assert_close(voting.weighted_vote(stacked, equal(3)), voting.soft_vote(stacked))


def test_a_hard_vote_is_the_share_of_first_choices_with_one_vote_for_all():
    choices = torch.tensor([[0, 1], [0, 2], [1, 2]])  # networks × images
    stacked = (torch.nn.functional.one_hot(choices, 3) * 5.0).log_softmax(2)
    third = 1 / 3
    expected = torch.tensor([[2 + third, 1 + third, third], [third, 1 + third, 2 + third]]) / 4
    torch.testing.assert_close(voting.hard_vote(stacked).exp(), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("preferred", [0, 1])
@pytest.mark.parametrize("margin", [0.3, 0.01])
def test_a_tie_of_a_hard_vote_goes_to_the_better_mean_probability(preferred, margin):
    other = 1 - preferred
    sure, unsure = torch.zeros(3), torch.zeros(3)
    sure[preferred], sure[other] = 0.6 + margin, 0.4 - margin
    unsure[other], unsure[preferred] = 0.6, 0.4
    stacked = torch.stack([sure, unsure])[:, None].clamp_min(1e-6).log()
    assert voting.hard_vote(stacked).argmax(1).tolist() == [preferred]


def test_a_majority_wins_however_sure_the_minority_is():
    many = torch.tensor([0.5001, 0.4999]).log().expand(500, 1, 2)
    few = torch.tensor([1e-6, 1 - 1e-6]).log().expand(499, 1, 2)
    assert voting.hard_vote(torch.cat([many, few])).argmax(1).tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fitted_weights_are_a_mixture(count):
    fitted = voting.fit_weights(*opinions(count))
    assert fitted.shape == (count,)
    assert (fitted >= 0).all()
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_fitted_weights_beat_equal_ones_and_the_best_member_where_they_were_fitted(seed):
    stacked, labels = opinions(5, seed)
    weighted = nll(voting.weighted_vote(stacked, voting.fit_weights(stacked, labels)), labels)
    assert weighted <= nll(voting.soft_vote(stacked), labels) + 1e-6
    assert weighted <= min(nll(one, labels) for one in stacked) + 1e-5


def test_fitted_weights_are_the_best_of_a_grid():
    stacked, labels = opinions(2)
    fitted = voting.fit_weights(stacked, labels)
    grid = [torch.tensor([share, 1 - share]) for share in torch.linspace(0, 1, 101)]
    best = min(grid, key=lambda given: nll(voting.weighted_vote(stacked, given), labels))
    assert fitted == pytest.approx(best, abs=0.01)


def test_a_member_that_knows_nothing_gets_no_weight():
    stacked, labels = opinions(3)
    wrong = torch.nn.functional.one_hot((labels + 1) % CLASSES, CLASSES).float().mul(20).log_softmax(1)
    fitted = voting.fit_weights(torch.cat([stacked, wrong[None]]), labels)
    assert fitted[3] < 1e-3
    assert fitted[2] == fitted.max()


def test_a_member_that_finds_a_truth_impossible_does_not_spoil_the_weights():
    stacked, labels = opinions(2)
    stacked[0, 0] = -math.inf
    fitted = voting.fit_weights(stacked, labels)
    assert fitted.isfinite().all()
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", VOTES)
def test_a_vote_is_a_module_that_keeps_its_weights(method):
    stacked, _ = opinions(3)
    given = torch.tensor([0.5, 0.2, 0.3]) if method == "weighted_vote" else None
    vote = voting.Vote(method, given)
    assert torch.equal(vote(stacked), VOTES[method](stacked, given))
    assert ("weights" in vote.state_dict()) == (method == "weighted_vote")


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
    fitted = voting.fit_weights(stacked, labels)
    assert fitted.min() >= 0
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)
    likelihoods = stacked.double()[:, torch.arange(images), labels].exp()
    gap = (likelihoods / (fitted.double() @ likelihoods)).mean(1).max().item() - 1
    assert gap < voting.GAP + 1e-7  # which single precision adds


@pytest.mark.parametrize("method", VOTES)
@pytest.mark.parametrize("count", range(1, 12))
def test_no_probability_is_above_one(method, count):
    """Seven equal networks that are certain had 1 + 1.2e-7, once."""
    certain = torch.full((count, 5, 3), -40.0)
    certain[:, :, 1] = 0.0
    vote = VOTES[method](certain.log_softmax(2), equal(count))
    assert vote.max() <= 0


def test_a_perfect_vote_of_equal_networks_is_perfectly_calibrated():
    labels = torch.arange(10)
    certain = torch.nn.functional.one_hot(labels, 10).float().mul(60).log_softmax(1)
    for method in ("soft_vote", "weighted_vote"):
        assert scores.score(VOTES[method](certain.expand(7, -1, -1), equal(7)), labels)["ece"] < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_are_those_of_expectation_maximisation_written_out(seed):
    """Smyth and Wolpert's steps as they stand in the paper: each image's shares, then their means."""
    stacked, labels = opinions(5, seed)
    likelihoods = stacked.double()[:, torch.arange(IMAGES), labels].exp()
    weights = torch.full((5,), 1 / 5, dtype=torch.float64)
    for _ in range(500):
        joint = weights[:, None] * likelihoods
        weights = (joint / joint.sum(0)).mean(1)
    fitted = mixture_nll(stacked, labels, voting.fit_weights(stacked, labels))
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
        lambda: voting.hard_vote(many),
        lambda: voting.soft_vote(many),
        lambda: voting.fit_weights(many, labels),
        lambda: voting.cross_fitted_vote(many, labels),
        lambda: scores.disagreement(many),
    ):
        assert largest(call) <= many.numel() * 4  # bytes of a float32


def test_the_cross_fitted_vote_gains_nothing_from_the_labels_it_votes_on():
    """On labels that nothing can predict, weights fitted to them win on them, and cross-fitted ones do not."""
    torch.manual_seed(0)
    in_sample, out_of_fold, plain = [], [], []
    for _ in range(20):
        votes, labels = torch.randn(6, 100, 4).log_softmax(2), torch.randint(4, (100,))
        in_sample.append(nll(voting.weighted_vote(votes, voting.fit_weights(votes, labels)), labels))
        out_of_fold.append(nll(voting.cross_fitted_vote(votes, labels), labels))
        plain.append(nll(voting.soft_vote(votes), labels))
    assert all(fitted < even for fitted, even in zip(in_sample, plain))
    assert sum(out_of_fold) > sum(plain)


def test_the_cross_fitted_vote_finds_the_network_that_is_right():
    labels = torch.arange(50) % 5
    good = torch.nn.functional.one_hot(labels, 5).float().mul(3).log_softmax(1)
    votes = torch.stack([good, torch.zeros(50, 5).log_softmax(1)])
    assert torch.allclose(voting.cross_fitted_vote(votes, labels), good, atol=1e-2)
