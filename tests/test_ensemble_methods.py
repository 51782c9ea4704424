"""Every ensemble method: nobody's place in the row counts, labels that nothing can predict are not predicted, and the
arithmetic is scikit-learn's."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from test_voting import CLASSES, IMAGES, equal, nll, opinions

from flows.ensembles import fitting, least_squares, stacking
from lightning_modules import names, scores
from lightning_modules.ensembles import COMBINED, Combiner, votes
from lightning_modules.tasks import Classification

fit = partial(fitting.fit, Classification({"class_names": []}))
out_of_fold = partial(fitting.out_of_fold, Classification({"class_names": []}))

NETWORK = {"name": "stacking", "hidden": 5}
METHODS = [
    *names.ENSEMBLES, NETWORK, *({"name": name, "temperature": True} for name, own in names.ENSEMBLES.items() if own),
]  # fmt: skip
IDS = [names.label(given, names.ENSEMBLES) for given in METHODS]
every_method = pytest.mark.parametrize("given", METHODS, ids=IDS)


def test_the_known_names_are_those_of_the_code():
    assert set(names.ENSEMBLES) == set(COMBINED)
    assert len(set(IDS)) == len(METHODS)


@every_method
def test_what_is_combined_is_a_log_probability(given):
    stacked, labels = opinions(3)
    combined = fit(given, stacked, labels)(stacked)
    assert combined.shape == (IMAGES, CLASSES)
    assert combined.isfinite().all()
    assert combined.exp().sum(1) == pytest.approx(torch.ones(IMAGES), abs=1e-5)


@pytest.mark.parametrize("given", [given for given in METHODS if names.name_of(given) != "stacking"], ids=str)
def test_an_ensemble_of_one_equals_its_member(given):
    alone, labels = opinions(1)
    combined = fit(given, alone, labels)(alone)
    assert torch.equal(combined.argmax(1), alone[0].argmax(1))
    if isinstance(given, str) and given not in ("hard_vote", "borda_count"):
        torch.testing.assert_close(combined, alone[0])


@pytest.mark.parametrize("given", [given for given in METHODS if given != NETWORK], ids=str)
def test_the_order_of_the_members_is_irrelevant(given):
    stacked, labels = opinions(4)
    combined = fit(given, stacked, labels)(stacked)
    for order in itertools.permutations(range(4)):
        mixed = stacked[list(order)]
        torch.testing.assert_close(fit(given, mixed, labels)(mixed).exp(), combined.exp(), atol=1e-3, rtol=0)


@every_method
def test_members_that_agree_decide(given):
    alone, labels = opinions(1)
    same = alone.expand(5, -1, -1)
    combined = fit(given, same, labels)(same)
    if names.name_of(given) == "stacking":  # which learns where they are wrong
        assert nll(combined, labels) < nll(alone[0], labels)
    else:
        assert torch.equal(combined.argmax(1), alone[0].argmax(1))


@every_method
def test_a_method_is_a_module_that_keeps_what_it_fitted(given):
    stacked, labels = opinions(3)
    fitted = fit(given, stacked, labels)
    kept = {name: torch.tensor(values.tolist()) for name, values in fitted.named_buffers()}
    assert torch.equal(Combiner(names.name_of(given), kept)(stacked), fitted(stacked))
    assert ("temperatures" in fitted.state_dict()) == (isinstance(given, dict) and given.get("temperature", False))


@every_method
@pytest.mark.parametrize("count", [1, 2, 7])
def test_no_probability_is_above_one(given, count):
    """Seven equal networks that are certain had 1 + 1.2e-7, once."""
    certain = torch.full((count, 12, 3), -40.0)
    labels = torch.arange(12) % 3
    certain[:, torch.arange(12), labels] = 0.0
    assert fit(given, certain, labels)(certain).max() <= 0


@pytest.mark.parametrize("method", ["soft_vote", "weighted_vote", "greedy", "super_learner", "geometric_mean"])
def test_perfect_networks_are_perfectly_calibrated_together(method):
    labels = torch.arange(10)
    certain = torch.nn.functional.one_hot(labels, 10).float().mul(60).log_softmax(1).expand(7, -1, -1)
    assert scores.score(fit(method, certain, labels)(certain), labels)["ece"] < 1e-6


@every_method
def test_what_is_fitted_gains_nothing_from_the_labels_that_it_is_judged_on(given):
    """On labels that nothing can predict what is fitted to them may win on them; out of fold nothing does."""
    torch.manual_seed(0)
    gains = []
    for _ in range(2):
        stacked, labels = torch.randn(6, 500, 4).log_softmax(2), torch.randint(4, (500,))
        right = (out_of_fold(given, stacked, labels).argmax(1) == labels).double().mean().item()
        gains.append(right - 1 / 4)
    # 1,000 images: the share that is right by chance has a standard deviation of 0.0137.
    assert abs(np.mean(gains)) < 4 * 0.0137


@pytest.mark.parametrize("given", ["weighted_vote", "super_learner", "greedy", "stacking", NETWORK], ids=str)
def test_what_is_fitted_is_better_on_the_labels_that_it_was_fitted_to(given):
    """So that the test above could fail."""
    torch.manual_seed(0)
    inside, outside = [], []
    for _ in range(3):
        stacked, labels = torch.randn(6, 100, 4).log_softmax(2), torch.randint(4, (100,))
        inside.append(nll(fit(given, stacked, labels)(stacked), labels))
        outside.append(nll(out_of_fold(given, stacked, labels), labels))
    assert np.mean(inside) < np.mean(outside)


@every_method
def test_out_of_fold_an_image_s_own_label_says_nothing(given):
    """The first image's label is another one: what is said of images of its fold stays as it was."""
    stacked, labels = opinions(3, images=50)
    other = labels.clone()
    other[0] = (labels[0] + 1) % CLASSES
    before, after = out_of_fold(given, stacked, labels), out_of_fold(given, stacked, other)
    assert (before == after).all(1).sum() >= 10  # of 50: a fold's
    assert torch.equal(before[0], after[0])


@every_method
def test_the_network_that_is_right_is_heard(given):
    labels = torch.arange(50) % 5
    good = torch.nn.functional.one_hot(labels, 5).float().mul(3).log_softmax(1)
    stacked = torch.stack([good, torch.zeros(50, 5).log_softmax(1)])
    assert torch.equal(out_of_fold(given, stacked, labels).argmax(1), labels)


@every_method
@pytest.mark.parametrize("images", [1, 3])
def test_few_images_and_classes_of_which_there_is_none_are_no_trouble(given, images):
    stacked, labels = opinions(3, images=images, classes=6)
    assert out_of_fold(given, stacked, labels).isfinite().all()
    assert fit(given, stacked, labels)(stacked).isfinite().all()


@every_method
def test_two_classes(given):
    stacked, labels = opinions(3, classes=2)
    combined = fit(given, stacked, labels)(stacked)
    assert (combined.argmax(1) == labels).double().mean() > 0.8


@every_method
def test_a_network_without_an_answer_is_told_by_nan_and_breaks_nothing(given):
    stacked, labels = opinions(3)
    stacked[1, 7] = math.nan
    assert all(math.isnan(value) for value in scores.score(out_of_fold(given, stacked, labels), labels).values())


class Told(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are written down; an image is its row's number."""

    def __init__(self, table=None) -> None:
        self.table = table

    def fit(self, rows, labels):
        self.classes_ = np.arange(self.table.shape[1])
        return self

    def predict_proba(self, rows):
        return self.table[rows[:, 0]]

    def predict(self, rows):
        return self.predict_proba(rows).argmax(1)


def told(tables: torch.Tensor) -> list[tuple[str, Told]]:
    return [(str(number), Told(one.double().numpy())) for number, one in enumerate(tables)]


@pytest.mark.parametrize("given", ["soft_vote", "weighted_vote", "greedy", "super_learner"])
def test_votes_are_scikit_learns(given):
    stacked, labels = opinions(4)
    rows = np.arange(IMAGES)[:, None]
    fitted = fit(given, stacked, labels)
    weights = dict(fitted.named_buffers()).get("weights", equal(4)).tolist()
    theirs = VotingClassifier(told(stacked.exp()), voting="soft", weights=weights).fit(rows, labels.numpy())
    np.testing.assert_allclose(fitted(stacked).exp().numpy(), theirs.predict_proba(rows), atol=1e-6)


def test_a_hard_vote_is_scikit_learns():
    stacked, labels = opinions(5)
    rows = np.arange(IMAGES)[:, None]
    theirs = VotingClassifier(told(stacked.exp()), voting="hard").fit(rows, labels.numpy()).predict(rows)
    counts = torch.nn.functional.one_hot(stacked.argmax(2), CLASSES).sum(0)
    clear = (counts == counts.max(1, keepdim=True).values).sum(1) == 1  # ties are broken in another way
    assert clear.sum() > IMAGES / 2
    assert torch.equal(fit("hard_vote", stacked, labels)(stacked).argmax(1)[clear], torch.tensor(theirs)[clear])


def test_stacking_is_scikit_learns():
    """With the images of which nothing is known, one for each class. What is stacked are log-probabilities."""
    stacked, labels = opinions(3)
    unknown = torch.full((3, CLASSES, CLASSES), -math.log(CLASSES))
    everything = torch.cat([stacked, unknown], 1)
    rows = np.arange(IMAGES + CLASSES)[:, None]
    answers = np.append(labels.numpy(), np.arange(CLASSES))
    bases = [(name, one.fit(rows, answers)) for name, one in told(everything)]
    theirs = StackingClassifier(
        bases, LogisticRegression(C=0.3, max_iter=1000, tol=1e-5), cv="prefit", stack_method="predict_proba"
    ).fit(rows, answers)  # fmt: skip
    ours = fit({"name": "stacking", "c": 0.3}, stacked, labels)(stacked).exp().numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(rows[:IMAGES]), atol=1e-3)


def test_stacking_corrects_a_network_that_calls_each_class_by_another_s_name():
    stacked, labels = opinions(2, images=1000)
    wrong = stacked.roll(1, 2)
    given = {"name": "stacking", "c": 10.0}
    assert nll(out_of_fold(given, wrong, labels), labels) < nll(votes.soft_vote(stacked), labels) + 0.05
    assert nll(votes.soft_vote(wrong), labels) > nll(votes.soft_vote(stacked), labels) + 0.5


@pytest.mark.parametrize("seed", range(3))
def test_no_weights_have_a_better_brier_score_than_the_super_learners(seed):
    """No other mixture near by nor far away, drawn at random."""
    stacked, labels = opinions(5, seed)
    fitted = fit("super_learner", stacked, labels).weights
    assert fitted.min() >= 0
    assert fitted.sum().item() == pytest.approx(1, abs=1e-6)
    truth = torch.nn.functional.one_hot(labels, CLASSES)

    def brier(weights: torch.Tensor) -> float:
        mixed = (weights.double()[:, None, None] * stacked.double().exp()).sum(0)
        return (mixed - truth).square().sum(1).mean().item()

    best = brier(fitted)
    draw = np.random.default_rng(seed)
    for share in (1.0, 0.1, 0.01):
        for other in torch.from_numpy(draw.dirichlet([0.5] * 5, 200)):
            assert best <= brier((1 - share) * fitted.double() + share * other) + 1e-7


def test_a_hidden_layer_has_its_units():
    stacked, labels = opinions(2)
    layers = stacking.fit_layers(stacked, labels, c=1.0, hidden=7)
    assert [tuple(layers[name].shape) for name in ("weight_0", "weight_1")] == [(2 * CLASSES, 7), (7, CLASSES)]


def test_the_fitted_mean_is_the_best_there_is():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(300, generator=draw)
    predicted = truth + torch.randn(6, 300, generator=draw) * torch.linspace(0.5, 3, 6)[:, None]
    found = least_squares.fit_weights(predicted, truth)
    assert found.sum().item() == pytest.approx(1, abs=1e-6)
    assert (found >= 0).all()

    def error(given: torch.Tensor) -> float:
        return (given.double() @ predicted.double() - truth).square().mean().item()

    for other in torch.distributions.Dirichlet(torch.ones(6)).sample((500,)):
        assert error(found) <= error(other) + 1e-9
    for near in torch.eye(6):  # a small step towards each network
        assert error(found) <= error(0.999 * found + 0.001 * near) + 1e-9
    assert error(found) < error(torch.full((6,), 1 / 6))


def test_weights_of_networks_that_are_one_are_any_and_those_of_nan_are_none():
    truth = torch.arange(5.0)
    same = truth.expand(3, -1) + 1
    assert least_squares.fit_weights(same, truth).sum().item() == pytest.approx(1)
    assert least_squares.fit_weights(truth.expand(2, -1), truth).sum().item() == pytest.approx(1)  # without an error
    assert least_squares.fit_weights(same * torch.nan, truth).isnan().all()
