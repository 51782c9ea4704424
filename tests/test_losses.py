"""Losses: against torch's own, against their formulas, and by the gradients' finite differences."""

import pytest
import torch
from sklearn import metrics
from test_fit import CLASSES, MLP, TRAINING, VALIDATION, measured, train
from test_together import SEEDS, assert_alike, recipe, train_together
from torch.nn import functional as F

from lightning_modules import losses, names, weights
from lightning_modules.errors import InputError
from lightning_modules.losses import LOSSES

ALL = [*sorted(LOSSES.keys() - {"focal"}), {"name": "focal", "gamma": 0.5}, {"name": "focal", "gamma": 3}]


def name(given: str | dict) -> str:
    return names.completed(given, names.LOSSES)["name"]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, 2 × 20 × 5, and labels, 2 × 20."""
    draw = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 20, 5, generator=draw), torch.randint(5, (2, 20), generator=draw)


def test_the_known_names_are_those_of_the_code():
    assert {*names.TASKS["classification"]} == LOSSES.keys()
    assert {loss for fitting in names.TASKS.values() for loss in fitting} == names.LOSSES.keys()
    assert {*names.SMOOTHED} == LOSSES.keys() - {"focal", "hinge"}


def test_cross_entropy_is_torchs(batch):
    logits, labels = batch
    for smoothing in (0.0, 0.3):
        expected = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
        ).view(2, 20)
        for given in ("cross_entropy", "categorical_cross_entropy"):
            torch.testing.assert_close(losses.build(given, smoothing)(logits, labels, smoothing), expected)


def test_binary_cross_entropy_is_torchs_on_one_hot_targets(batch):
    logits, labels = batch
    targets = 0.9 * F.one_hot(labels, 5) + 0.1 / 5
    expected = F.binary_cross_entropy(logits.double().sigmoid(), targets.double(), reduction="none").mean(-1).float()
    torch.testing.assert_close(losses.build("binary_cross_entropy", 0.1)(logits, labels, 0.1), expected)


def test_errors_are_between_probabilities_and_one_hot_targets(batch):
    logits, labels = batch
    probabilities, truth = logits.softmax(-1), F.one_hot(labels, 5).float()
    expected = F.mse_loss(probabilities, truth, reduction="none").mean(-1)
    torch.testing.assert_close(losses.build("mse")(logits, labels), expected)
    expected = F.l1_loss(probabilities, truth, reduction="none").mean(-1)
    torch.testing.assert_close(losses.build("mae")(logits, labels), expected)


def test_hinge_is_scikit_learns(batch):
    logits, labels = batch
    one = losses.build("hinge")(logits, labels)
    expected = metrics.hinge_loss(labels.flatten(), logits.flatten(0, 1).double(), labels=range(5))
    assert one.mean().item() == pytest.approx(expected, rel=1e-6)
    assert one.min() == 0  # where the label leads by 1
    assert losses.build("hinge")(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0])).item() == 0
    assert losses.build("hinge")(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([2])).item() == 2


def test_focal_is_cross_entropy_that_counts_what_is_learnt_less(batch):
    logits, labels = batch
    plain = losses.build("cross_entropy")(logits, labels)
    torch.testing.assert_close(losses.build({"name": "focal", "gamma": 0})(logits, labels), plain)
    probability = logits.softmax(-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(losses.build("focal")(logits, labels), (1 - probability) ** 2 * plain)


@pytest.mark.parametrize("given", ALL, ids=str)
def test_gradients_are_finite_differences(given, batch):
    logits, labels = (values[0] for values in batch)
    smoothing = 0.1 if name(given) in names.SMOOTHED else 0.0
    loss = losses.build(given, smoothing)
    # In double precision: differences of single ones are noise.
    assert torch.autograd.gradcheck(lambda place: loss(place, labels, smoothing), logits.double().requires_grad_())


@pytest.mark.parametrize("given", ALL, ids=str)
def test_sure_networks_have_finite_losses_and_gradients(given):
    """Whether they are right or wrong: a probability of 1 rounds to 1, and one of 0 to 0."""
    logits = (200 * torch.eye(3)).requires_grad_()
    for labels in ([0, 1, 2], [1, 2, 0]):
        loss = losses.build(given)(logits, torch.tensor(labels))
        assert loss.isfinite().all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient.isfinite().all()
    right, wrong = (losses.build(given)(logits, torch.tensor(labels)).sum() for labels in ([0, 1, 2], [1, 2, 0]))
    assert right < wrong


def test_what_has_no_target_distribution_is_not_smoothed():
    for given in ("hinge", "focal"):
        with pytest.raises(InputError, match=f"loss {given} has no target distribution .*: binary_cross_entropy, "):
            train(MLP | {"loss": given, "label_smoothing": 0.1})
        with pytest.raises(InputError, match="no target distribution"):
            train_together([recipe(loss=given, label_smoothing=smoothing) for smoothing in (0.0, 0.1, 0.0)])


@pytest.mark.parametrize("given", ALL, ids=str)
def test_every_loss_learns_and_says_how_sure_it_is(given):
    one = MLP | {"loss": given}
    fitted = train(one, epochs=25)
    nll, accuracy = measured(one, fitted)
    assert accuracy >= 0.8
    # What training measured on validation is what the trained network predicts.
    best = fitted.history[fitted.best_epoch - 1]
    network = predictor(one, fitted)
    predicted = weights.predict(network, VALIDATION[0])
    torch.testing.assert_close(predicted.exp().sum(1), torch.ones(30))
    nll = F.nll_loss(predicted, torch.from_numpy(VALIDATION[1]))
    assert nll.item() == pytest.approx(best["validation_nll"], rel=1e-5)
    assert accuracy == pytest.approx(best["validation_accuracy"])


def predictor(one: dict, fitted) -> weights.Predictor:
    from lightning_modules import networks

    network = networks.build(one, (8, 8, 1), len(CLASSES))
    network.load_state_dict(fitted.state)
    return weights.Predictor(network, [0.25], [0.2], loss=one["loss"]).eval()


def test_one_against_all_predicts_by_sigmoids_that_sum_to_one(batch):
    logits, _ = batch
    sigmoids = logits.sigmoid()
    found = losses.log_probabilities("binary_cross_entropy", logits)
    torch.testing.assert_close(found.exp(), sigmoids / sigmoids.sum(-1, keepdim=True))
    assert not torch.allclose(found, logits.log_softmax(-1), atol=0.1)
    for given in LOSSES.keys() - {"binary_cross_entropy"}:
        torch.testing.assert_close(losses.log_probabilities(given, logits), logits.log_softmax(-1))
    assert losses.log_probabilities("binary_cross_entropy", torch.full((1, 3), -200.0)).exp().sum() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, torch.tensor([[0.0], [0.2]])], ids=["none", "of each"])
def test_losses_of_stacked_networks_are_those_of_each(smoothing):
    """On a CPU a softmax of three dimensions is made in another order."""
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(2, 7, 5), torch.randint(5, (2, 7))
    found = losses.cross_entropy(logits, labels, smoothing)
    for number in range(2):
        own = float(smoothing[number]) if isinstance(smoothing, torch.Tensor) else smoothing
        torch.testing.assert_close(found[number], losses.cross_entropy(logits[number], labels[number], own))
    torch.testing.assert_close(losses.log_probabilities("cross_entropy", logits), logits.log_softmax(-1))


def test_two_classes_are_enough_for_one_against_all():
    images, labels = TRAINING
    split = images[labels < 2], labels[labels < 2]
    one = MLP | {"loss": "binary_cross_entropy"}
    fitted = train(one, split, split, epochs=25)
    assert fitted.history[-1]["validation_accuracy"] >= 0.9


@pytest.mark.parametrize("given", [None, "cross_entropy", "binary_cross_entropy", {"name": "focal", "gamma": 1.0}])
def test_a_saved_member_predicts_as_its_loss_says(given, tmp_path):
    one = MLP | ({"loss": given} if given else {})  # cards of old have no loss
    fitted = train(one)
    card = {"recipe": one, "shape": [8, 8, 1], "class_names": CLASSES, "mean": [0.25], "std": [0.2]}
    weights.save(tmp_path, card | {"replicas": [{"weights_sha256": weights.digest(fitted.state)}]}, [fitted.state])
    _, (loaded,) = weights.load(tmp_path)
    images = torch.from_numpy(VALIDATION[0])
    logits = loaded.network(weights.normalize(images, loaded.mean, loaded.std))
    assert torch.equal(loaded(images), losses.log_probabilities(given or "cross_entropy", logits))


@pytest.mark.parametrize("given", ALL, ids=str)
def test_each_learns_together_what_it_learns_alone(given):
    smoothings = (0.0, 0.2, 0.1) if name(given) in names.SMOOTHED else (0.0, 0.0, 0.0)
    recipes = [recipe(loss=given, label_smoothing=smoothing) for smoothing in smoothings]
    for one, seed, fitted in zip(recipes, SEEDS, train_together(recipes)):
        assert_alike(train(one, seed=seed), fitted)
