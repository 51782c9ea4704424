"""The programs of an ensemble: as many as there are kinds of networks, and they say what the networks say."""

import numpy as np
import pytest
import torch
from test_ensemble_methods import METHODS, fit
from test_voting import opinions
from torch import nn

from flows.models.export import export, structure
from flows.models.served_ensemble import ServedEnsemble
from flows.project import file_io
from lightning_modules import names, networks, weights
from lightning_modules.ensembles import Combiner

SHAPE, NAMES = [8, 8, 3], ["a", "b", "c"]
MLP = {"name": "mlp", "hidden": [8]}
CNN = {"name": "cnn", "channels": [4, 4, 4, 4, 4], "hidden": 8}
RESNET = {"name": "resnet", "width": 4, "blocks": [1, 1]}
SMALL = {
    "mlp": {"hidden": [8], "batch_norm": True},
    "lenet": {"channels": [2, 2], "hidden": [8, 8], "batch_norm": True},
    "cnn": {"channels": [2, 2, 2, 2, 2], "hidden": 8},
    "resnet": {"width": 4, "blocks": [1, 1], "skips": False},
    "split_merge": {"widths": [2, 2], "batch_norm": True},
    "airbench": {"widths": [4, 4], "depth": 2},
}  # the others have `hidden` alone


def predictor(
    seed: int,
    network: dict,
    activation: str = "relu",
    mean: float = 0.5,
    views: str = "none",
    loss: str | dict = "cross_entropy",
) -> weights.Predictor:
    torch.manual_seed(seed)
    recipe = {"network": network, "activation": activation, "initializer": "he_normal", "dropout": 0.5}
    made = networks.build(recipe, SHAPE, len(NAMES))
    made.train()(torch.randn(16, 3, 8, 8) * 2 + 1)  # so that BatchNorm's running numbers are its own
    return weights.Predictor(made, [mean] * 3, [0.2] * 3, views, loss).eval()


def served(members: list, folder, combiner: Combiner | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """What the files in the folder predict, and what the networks do."""
    combiner = combiner or Combiner("soft_vote")
    export(members, combiner, SHAPE, NAMES, folder)
    images = np.random.default_rng(0).integers(0, 256, (30, *SHAPE), np.uint8)
    stacked = torch.stack([weights.predict(member, images) for member in members])
    frame = ServedEnsemble(folder).predict(images)
    return torch.tensor(frame[NAMES].to_numpy(np.float32)), combiner(stacked).exp()


@pytest.mark.parametrize("given", METHODS, ids=str)
def test_what_is_served_is_the_ensemble_of_the_networks(tmp_path, given):
    members = [predictor(0, MLP), predictor(1, CNN), predictor(2, RESNET), predictor(3, MLP)]
    answer, expected = served(members, tmp_path, fit(given, *opinions(4, classes=len(NAMES))))
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    assert file_io.read_json(tmp_path / "ensemble.json")["networks"] == [[0, 0], [1, 0], [2, 0], [0, 1]]


def test_networks_are_served_with_the_probabilities_of_their_losses(tmp_path):
    losses = ("cross_entropy", "binary_cross_entropy", {"name": "focal", "gamma": 2.0}, "binary_cross_entropy")
    members = [predictor(seed, MLP, loss=loss) for seed, loss in enumerate(losses)]
    answer, expected = served(members, tmp_path)
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    assert file_io.read_json(tmp_path / "ensemble.json")["networks"] == [[0, 0], [1, 0], [2, 0], [1, 1]]


@pytest.mark.parametrize(
    ("name", "activation"),
    [*((name, "tanh") for name in names.NETWORKS), ("rnn", "prelu"), ("mlp", "maxout"), ("split_merge", "maxout")],
)
def test_every_network_is_served_as_it_is_for_any_number_of_images(tmp_path, name, activation):
    members = [predictor(seed, {"name": name, **SMALL.get(name, {"hidden": 8})}, activation) for seed in (0, 1)]
    answer, expected = served(members, tmp_path)
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    program = ServedEnsemble(tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (5, *SHAPE), np.uint8)
    for count in (1, 5):
        frame = program.predict(images[:count])
        stacked = torch.stack([weights.predict(member, images[:count]) for member in members])
        expected = Combiner("soft_vote")(stacked).exp()
        torch.testing.assert_close(torch.tensor(frame[NAMES].to_numpy(np.float32)), expected, atol=1e-6, rtol=1e-5)


def test_programs_are_as_many_as_kinds_of_networks(tmp_path):
    members = [predictor(seed, MLP, mean=0.1 * seed) for seed in range(20)]
    members += [predictor(30, MLP, "tanh"), predictor(31, {"name": "mlp", "hidden": [9]})]
    members += [predictor(32, MLP, views="mirror")]
    answer, expected = served(members, tmp_path)
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    assert len(list(tmp_path.glob("network-*.pt2"))) == 4


class Scaled(nn.Module):
    """A module that does not say in its description what it computes with."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.network, self.factor = nn.Linear(8 * 8 * 3, len(NAMES)), [factor]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.network(images.float().flatten(1) / 255) * self.factor[0]).log_softmax(1)


def test_networks_that_only_look_alike_do_not_share_a_program(tmp_path):
    members = [Scaled(1.0).eval(), Scaled(3.0).eval(), Scaled(3.0).eval()]
    assert structure(members[0]) == structure(members[1])
    answer, expected = served(members, tmp_path)
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    assert file_io.read_json(tmp_path / "ensemble.json")["networks"] == [[0, 0], [1, 0], [1, 1]]


def test_nothing_that_is_served_is_a_pickle(tmp_path):
    served([predictor(0, MLP), predictor(1, MLP)], tmp_path)
    with np.load(tmp_path / "weights-0.npz", allow_pickle=False) as file:
        assert {file[name].shape[0] for name in file.files} == {2}
