"""Networks that train together: each comes out as it does alone, up to rounding."""

import pytest
import torch
from test_fit import CLASSES, MLP, TRAINING, VALIDATION, Interrupted, assert_same, half_wrong, train

from lightning_modules import classifier, networks, weights
from lightning_modules.errors import DivergedError, InputError
from lightning_modules.fit import Fitted, fit_together
from lightning_modules.images import Images
from lightning_modules.names import NETWORKS, OPTIMIZERS, VIEWS, misfit
from lightning_modules.networks.stacking import NotStackableError, stack, unstack
from lightning_modules.together import log_probabilities

SEEDS = [5, 6, 7]
SMALL = {
    "mlp": {"hidden": [16, 8]},
    "shallow": {"hidden": 16},
    "lenet": {"channels": [4, 4], "hidden": [8, 8]},
    "cnn": {"channels": [4, 4, 4, 4, 4], "hidden": 8},
    "resnet": {"width": 4, "blocks": [1, 1]},
    "split_merge": {"widths": [2, 3]},
    "rnn": {"hidden": 8},
    "lstm": {"hidden": 8},
    "gru": {"hidden": 8},
}


def recipe(name: str = "mlp", **more) -> dict:
    return MLP | {"network": {"name": name, **SMALL[name]}} | more


def optimizer(name: str, **more) -> dict:
    return {"optimizer": {"name": name, "lr": 0.01, "weight_decay": 0.0, **more}}


def train_together(recipes: list[dict], training=TRAINING, validation=VALIDATION, **settings) -> list[Fitted]:
    given = {"mean": [0.25], "std": [0.2], "seeds": SEEDS, "epochs": 3, "batch_size": 8, "threads": 1} | settings
    return fit_together(recipes, training, validation, class_names=CLASSES, **given)


def assert_alike(alone: Fitted, together: Fitted) -> None:
    assert alone.best_epoch == together.best_epoch
    assert len(alone.history) == len(together.history)
    for own, other in zip(alone.history, together.history):
        assert own == pytest.approx(other, rel=1e-4)
    assert alone.state.keys() == together.state.keys()
    for name, tensor in alone.state.items():
        assert torch.allclose(tensor.float(), together.state[name].float(), atol=1e-4), name


@pytest.mark.parametrize("name", SMALL)
def test_stacked_networks_compute_what_each_computes(name):
    alone = [networks.build(recipe(name), (8, 8, 3), 5).eval() for _ in range(3)]
    together = stack(alone).eval()
    images = torch.randn(3, 4, 3, 8, 8)
    logits = together(images)
    assert logits.shape == (3, 4, 5)
    for number, network in enumerate(alone):
        assert torch.allclose(logits[number], network(images[number]), atol=1e-5)
        network.load_state_dict(unstack(together, number))  # by the same names


@pytest.mark.parametrize("name", SMALL)
def test_each_learns_what_it_learns_alone(name):
    one = recipe(name, dropout=0.3, schedule="cosine")
    together = train_together([one] * 3, augment="shift_flip")
    for seed, fitted in zip(SEEDS, together):
        assert_alike(train(one, augment="shift_flip", seed=seed), fitted)


@pytest.mark.parametrize(
    ("name", "switch"),
    [(name, key) for name, own in NETWORKS.items() for key, default in own.items() if isinstance(default, bool)],
)
def test_so_does_each_with_its_switches_turned(name, switch):
    settings = {"name": name, **SMALL[name], switch: not NETWORKS[name][switch]}
    one = recipe(name, network=settings, dropout=0.3)
    together = train_together([one] * 3)
    for seed, fitted in zip(SEEDS, together):
        assert_alike(train(one, seed=seed), fitted)


LEARNING_OR_WIDENING = [
    (name, activation)
    for name in ("mlp", "shallow", "lenet", "cnn", "split_merge", "resnet", "rnn")
    for activation in ({"name": "prelu", "init": 0.25}, {"name": "maxout", "pieces": 3})
    if not misfit("activation", activation, name)
]


@pytest.mark.parametrize(("name", "activation"), LEARNING_OR_WIDENING, ids=str)
def test_so_does_each_with_an_activation_that_learns_or_that_widens(name, activation):
    # Not Adam, which makes steps of full length of gradients that are nothing but rounding.
    one = recipe(name, activation=activation, **optimizer("momentum"))
    together = train_together([one] * 3)
    for seed, fitted in zip(SEEDS, together):
        assert_alike(train(one, seed=seed), fitted)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("views", VIEWS)
def test_what_trained_networks_say_together_is_what_each_says_when_served(views, count):
    given = recipe("cnn", test_time_views=views)
    alone = [networks.build(given, (8, 8, 1), 3).eval() for _ in range(count)]
    images = Images(*VALIDATION, [0.25], [0.2])
    states = [network.state_dict() for network in alone]
    found = log_probabilities([given] * count, states, [8, 8, 1], 3, images)
    for network, said in zip(alone, found, strict=True):
        served = weights.predict(weights.Predictor(network, [0.25], [0.2], views).eval(), VALIDATION[0])
        torch.testing.assert_close(said, served, atol=1e-5, rtol=1e-4)


def test_they_may_differ_in_the_dropout_of_each_layer():
    recipes = [recipe(dropout=[0.0, 0.5]), recipe(dropout=0.2), recipe(dropout=[0.3, 0.0])]
    together = train_together(recipes)
    for one, seed, fitted in zip(recipes, SEEDS, together):
        assert_alike(train(one, seed=seed), fitted)


@pytest.mark.parametrize(
    "name", sorted(OPTIMIZERS.keys() - {"rprop"})
)  # by signs: rounding decides where none is clear
def test_every_optimizer_treats_each_as_if_it_were_alone(name):
    together = train_together([recipe(**optimizer(name))] * 3)
    for seed, fitted in zip(SEEDS, together):
        assert_alike(train(recipe(**optimizer(name)), seed=seed), fitted)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "muon"])
def test_they_may_differ_in_rates_dropout_and_smoothing(name):
    recipes = [
        recipe(dropout=0.5, label_smoothing=0.0, **optimizer(name, lr=0.01)),
        recipe(dropout=0.0, label_smoothing=0.2, **optimizer(name, lr=0.02, weight_decay=0.1)),
        recipe(dropout=0.1, label_smoothing=0.1, **optimizer(name, lr=0.005)),
    ]
    together = train_together(recipes)
    for one, seed, fitted in zip(recipes, SEEDS, together):
        assert_alike(train(one, seed=seed), fitted)
    assert [fitted.history[0]["lr"] for fitted in together] == [0.01, 0.02, 0.005]


def test_they_may_not_differ_in_anything_else():
    with pytest.raises(ValueError, match=r"may differ in dropout, label_smoothing, optimizer"):
        train_together([recipe(), recipe(activation="tanh"), recipe()])


def test_a_setting_that_the_optimizer_refuses_is_refused_whoever_has_it():
    recipes = [
        recipe(**optimizer("rprop")),
        recipe(**optimizer("rprop", weight_decay=0.1)),
        recipe(**optimizer("rprop")),
    ]
    with pytest.raises(InputError, match="weight_decay"):
        train_together(recipes)


def test_each_stops_early_by_itself():
    slow, fast = recipe(**optimizer("adam", lr=0.003)), recipe(**optimizer("adam", lr=0.03))
    settings = {"training": half_wrong(40), "epochs": 40, "early_stopping": 3}
    together = train_together([slow, fast, slow], **settings)
    lengths = [len(fitted.history) for fitted in together]
    assert len(set(lengths)) > 1
    assert all(length == fitted.best_epoch + 3 for length, fitted in zip(lengths, together))
    for one, seed, fitted in zip([slow, fast, slow], SEEDS, together):
        assert_alike(train(one, seed=seed, **settings), fitted)


@pytest.mark.parametrize("rates", [(0.01, 0.01, 0.01), (0.01, 0.02, 0.03)], ids=["one rate", "a rate each"])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(rates, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "BLOCK", 2)
    recipes = [recipe("resnet", dropout=0.4, schedule="cosine", **optimizer("adam", lr=rate)) for rate in rates]
    settings = {"epochs": 4, "augment": "shift", "early_stopping": 10}
    whole = train_together(recipes, **settings)

    def report(event: dict) -> None:
        if event["epoch"] == 3 and event["replica"] == 1 and "row" not in event:
            raise Interrupted

    checkpoint = tmp_path / "replicas.ckpt"
    with pytest.raises(Interrupted):
        train_together(recipes, **settings, checkpoint=checkpoint, report=report)
    torch.manual_seed(5)
    for first, second in zip(whole, train_together(recipes, **settings, checkpoint=checkpoint)):
        assert_same(first, second)


def test_one_that_diverges_is_named():
    recipes = [recipe(), recipe(**optimizer("sgd", lr=1e30)), recipe()]
    recipes = [
        one | {"optimizer": {**recipes[1]["optimizer"], "lr": rate}} for one, rate in zip(recipes, (0.1, 1e30, 0.1))
    ]
    with pytest.raises(DivergedError) as caught:
        train_together(recipes)
    assert caught.value.replica == 1


def test_what_cannot_be_stacked_says_so():
    one = MLP | {"network": {"name": "airbench", "widths": [4, 4], "depth": 2}}
    assert set(SMALL) == NETWORKS.keys() - {"airbench"}
    with pytest.raises(NotStackableError, match="no stacked version of the layer Whitening"):
        train_together([one] * 3)


def test_reports_name_the_network():
    events = []
    train_together([recipe()] * 3, report=events.append)
    assert {event["replica"] for event in events} == {0, 1, 2}
    assert [event["row"]["epoch"] for event in events if "row" in event and event["replica"] == 2] == [1, 2, 3]


def test_one_that_has_stopped_may_diverge(monkeypatch):
    """It goes on computing beside the others, and what it makes is thrown away."""
    measured = classifier.Classifier.measured

    def poisoned(module):
        numbers = measured(module)
        if 1 in module.finished:
            numbers[1]["training_loss"] = float("nan")
        return numbers

    monkeypatch.setattr(classifier.Classifier, "measured", poisoned)
    slow, fast = recipe(**optimizer("adam", lr=0.003)), recipe(**optimizer("adam", lr=0.03))
    together = train_together([slow, fast, slow], training=half_wrong(40), epochs=40, early_stopping=3)
    assert len(together[1].history) < len(together[0].history)


@pytest.mark.parametrize("draw", [1, 700, 2**22])
def test_masks_do_not_depend_on_how_many_train_together(monkeypatch, draw):
    monkeypatch.setattr("lightning_modules.regularization.dropout.LARGEST_DRAW", draw)
    one = recipe(dropout=0.5)
    for seed, fitted in zip(SEEDS, train_together([one] * 3)):
        assert_alike(train(one, seed=seed), fitted)


@pytest.mark.parametrize(("turn", "lengths"), [(2, [2, 4, 6, 8, 9]), (4, [4, 8, 9]), (9, [9, 9])])
def test_a_training_in_turns_is_the_training(turn, lengths, tmp_path):
    """Two of the networks stop early, within a turn, while the third one goes on."""
    recipes = [recipe(dropout=0.1, **optimizer("adam", lr=rate)) for rate in (0.003, 0.2, 0.03)]
    settings = {"seeds": [1, 2, 3], "training": half_wrong(40), "epochs": 9, "early_stopping": 2, "augment": "shift"}
    whole = train_together(recipes, **settings)
    assert [len(alone.history) for alone in whole] == [9, 5, 7]
    for longest in lengths:
        torch.manual_seed(longest)  # what happens between the turns
        parts = train_together(recipes, **settings, turn=turn, checkpoint=tmp_path / "stack.ckpt")
        assert [len(part.history) for part in parts] == [min(longest, last) for last in (9, 5, 7)]
        assert [part.finished for part in parts] == [longest >= last for last in (9, 5, 7)]
    for part, alone in zip(parts, whole):
        assert_same(part, alone)
