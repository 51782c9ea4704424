"""Pre-training by restricted Boltzmann machines: against scikit-learn's, and what the network makes of it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM
from test_fit import MLP, TRAINING, Interrupted, SaveLast, assert_same, bars, train
from test_together import SEEDS, assert_alike, recipe, train_together

from lightning_modules import initializers, names, networks
from lightning_modules.classifier import Classifier
from lightning_modules.errors import InputError
from lightning_modules.images import Images
from lightning_modules.initializers import rbm

SETTINGS = {"epochs": 6, "lr": 0.1, "batch_size": 10}
RBM = MLP | {
    "network": {"name": "mlp", "hidden": [16, 8]},
    "activation": "sigmoid",
    "initializer": {"name": "rbm", **SETTINGS},
}


@pytest.fixture(scope="module")
def digits() -> Images:
    """600 digits, whose two other channels are the mirrored and the upside-down image."""
    found = load_digits()
    pixels = (found.images[:600] * 15).astype(np.uint8)
    stacked = np.stack([pixels, pixels[:, :, ::-1], pixels[:, ::-1]], -1)
    return Images(stacked, found.target[:600].astype(np.int64), [0.3, 0.2, 0.4], [0.37, 0.3, 0.0])


def begun(hidden: list[int], shape: tuple[int, int, int] = (8, 8, 3), **more) -> torch.nn.Module:
    torch.manual_seed(0)
    return networks.build(RBM | {"network": {"name": "mlp", "hidden": hidden}} | more, shape, 10)


def test_the_reconstruction_error_falls_in_every_layer(digits):
    network = begun([64, 32])
    errors = rbm.pretrain(network.state_dict(), digits, 1, **SETTINGS)
    assert [len(error) for error in errors] == [6, 6]
    for error in errors:
        assert error[-1] < 0.8 * error[0]
    assert errors[0][-1] < 0.8 * float(rbm.intensities(digits, torch.arange(600)).var(0).mean())


def test_it_is_as_good_as_scikit_learns(digits):
    """Which learns by persistent contrastive divergence: alike at the end, not number by number. Compared by
    scikit-learn's own pseudo-likelihood, and by the error of reconstruction from samples."""
    visible = rbm.intensities(digits, torch.arange(600))[:, :64].double().numpy()
    theirs = BernoulliRBM(32, learning_rate=0.1, batch_size=10, n_iter=15, random_state=0).fit(visible)
    torch.manual_seed(0)
    machine = rbm.Machine(torch.randn(32, 64) * rbm.SPREAD, torch.zeros(32))
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for part in torch.from_numpy(visible).float()[torch.randperm(600, generator=generator)].split(10):
            machine.learn(part, 0.1, generator)
    ours = BernoulliRBM(32, random_state=0)
    ours.components_ = machine.weight.double().numpy()
    ours.intercept_hidden_, ours.intercept_visible_ = machine.hidden.double().numpy(), machine.visible.double().numpy()
    ours.random_state_, ours.n_features_in_ = np.random.RandomState(0), 64
    untrained = BernoulliRBM(32, learning_rate=1e-12, n_iter=1, random_state=0).fit(visible)

    def measured(machine: BernoulliRBM) -> tuple[float, float]:
        on = np.random.default_rng(0).random((600, 32)) < machine.transform(visible)
        again = 1 / (1 + np.exp(-(on @ machine.components_ + machine.intercept_visible_)))
        return machine.score_samples(visible).mean(), ((visible - again) ** 2).mean()

    likelihood, error = measured(ours)
    their_likelihood, their_error = measured(theirs)
    no_likelihood, no_error = measured(untrained)
    assert likelihood - no_likelihood > 0.8 * (their_likelihood - no_likelihood) > 0
    assert no_error - error > 0.8 * (no_error - their_error) > 0


def test_the_network_computes_of_normalised_images_what_the_machines_do_of_intensities(digits, monkeypatch):
    machines = []
    made = rbm.Machine.__init__

    def noted(self, *arguments) -> None:
        made(self, *arguments)
        machines.append(self)

    monkeypatch.setattr(rbm.Machine, "__init__", noted)
    network = begun([64, 32])
    last = network[-1].weight.clone()
    rbm.pretrain(network.state_dict(), digits, 1, **SETTINGS)
    seen = rbm.intensities(digits, torch.arange(600))
    for machine in machines:
        seen = machine.probabilities(seen)
    torch.testing.assert_close(network[:-1](digits.first(600)), seen, rtol=1e-4, atol=1e-4)
    assert torch.equal(network[-1].weight, last)
    assert seen.std(0).mean() > 0.02  # something that tells images apart


def test_it_begins_small_and_ends_in_xavier():
    network = begun([300, 200])
    assert network[1].weight.std().item() == pytest.approx(rbm.SPREAD, rel=0.05)
    bound = (6 / 210) ** 0.5
    assert 0.9 * bound < network[-1].weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in network if isinstance(layer, torch.nn.Linear))


def test_the_same_seed_gives_the_same_bits_and_another_one_others(digits):
    states = []
    for seed in (1, 1, 2):
        state = begun([16]).state_dict()
        torch.manual_seed(len(states))  # whatever was drawn before
        initializers.pretrain(state, RBM["initializer"], digits, seed)
        states.append(state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["1.weight"], states[2]["1.weight"])


def test_other_initializers_learn_nothing_from_images(digits):
    for name in names.INITIALIZERS.keys() - {"rbm"}:
        state = begun([16], initializer=name).state_dict()
        before = {key: tensor.clone() for key, tensor in state.items()}
        initializers.pretrain(state, name, digits, 1)
        assert all(torch.equal(tensor, before[key]) for key, tensor in state.items())


def test_it_is_done_before_training_and_training_goes_on_from_there():
    nothing = {"optimizer": {"name": "sgd", "lr": 1e-30, "weight_decay": 0.0}}
    fitted = train(RBM | nothing, seed=3)
    module = Classifier(RBM, [8, 8, 1], 3, 3, 1, 8)
    begun = module.state()["1.weight"].clone()
    module.attach(Images(*TRAINING, [0.25], [0.2]), None).pretrain()
    assert torch.equal(fitted.state["1.weight"], module.state()["1.weight"])
    assert not torch.allclose(fitted.state["1.weight"], begun, atol=0.01)
    tuned = train(RBM, seed=3, epochs=30)
    assert tuned.history[-1]["training_loss"] < 0.5 * fitted.history[-1]["training_loss"]


def test_what_it_sees_is_not_augmented():
    nothing = RBM | {"optimizer": {"name": "sgd", "lr": 1e-30, "weight_decay": 0.0}}
    assert_states(train(nothing, augment="shift_flip").state, train(nothing).state)


def assert_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Equal but for biases of 0, to which a step of nearly nothing was added."""
    assert all(torch.allclose(tensor, second[name], rtol=0, atol=1e-20) for name, tensor in first.items())


def test_each_is_pre_trained_together_as_alone():
    one = recipe(initializer={"name": "rbm", **SETTINGS}, activation="sigmoid")
    nothing = one | {"optimizer": {"name": "sgd", "lr": 1e-30, "weight_decay": 0.0}}
    for seed, fitted in zip(SEEDS, train_together([nothing] * 3)):
        assert_states(train(nothing, seed=seed).state, fitted.state)
    for seed, fitted in zip(SEEDS, train_together([one] * 3)):
        assert_alike(train(one, seed=seed), fitted)


def test_an_interrupted_training_goes_on_without_another_pre_training(tmp_path, monkeypatch):
    monkeypatch.setattr(SaveLast, "SHARE", 1)
    whole = train(RBM, epochs=4)

    def report(event: dict) -> None:
        if event["epoch"] == 3:
            raise Interrupted

    checkpoint = tmp_path / "replica.ckpt"
    with pytest.raises(Interrupted):
        train(RBM, epochs=4, checkpoint=checkpoint, report=report)

    def again(*arguments, **settings) -> None:
        raise AssertionError

    monkeypatch.setattr(rbm, "pretrain", again)
    assert_same(whole, train(RBM, epochs=4, checkpoint=checkpoint))


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ({"name": "cnn", "channels": [4, 4, 4, 4, 4], "hidden": 8}, "Conv2d"),
        ({"name": "resnet", "width": 4, "blocks": [1, 1]}, "Conv2d"),
        ({"name": "airbench", "widths": [4, 4], "depth": 2}, "Airbench"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)
def test_what_has_other_layers_is_refused(network, layer):
    with pytest.raises(InputError, match=f"rbm trains fully connected layers, and a {layer} is none"):
        networks.build(RBM | {"network": network}, (8, 8, 1), 3)


def test_the_known_names_are_those_of_the_code():
    """A network is named as one that rbm fits where `begin` takes it."""
    fits = set()
    for name, sizes in names.NETWORKS.items():
        try:
            networks.build(RBM | {"network": {"name": name, **sizes}}, (8, 8, 1), 3)
            fits.add(name)
        except InputError:
            pass
    assert fits == {*names.ONLY_IN["initializer"]["rbm"][0]}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"network": {"name": "mlp", "hidden": [16], "batch_norm": True}}, "a BatchNorm1d is none"),
        ({"activation": {"name": "maxout", "pieces": 2}}, "as many inputs as the one before has outputs"),
    ],
)
def test_what_is_between_the_layers_has_to_fit(more, why):
    with pytest.raises(InputError, match=why):
        networks.build(RBM | more, (8, 8, 1), 3)


def test_layers_that_do_not_follow_one_another_are_refused():
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    with pytest.raises(InputError, match="as many inputs as the one before has outputs"):
        rbm.begin(network)


def test_bars_are_found_by_a_network_that_began_with_them():
    images, labels = bars(200, 5)
    fitted = train(RBM, training=(images, labels), epochs=20)
    assert fitted.history[-1]["validation_accuracy"] >= 0.9
