"""What the champion makes of images: its own probabilities, and what goes into the last layer of its networks."""

import numpy as np
import pytest
import torch
from test_export import CNN, MLP, NAMES, RESNET, SHAPE, predictor
from torch import nn

from flows.drift.embeddings import predict_and_embed
from flows.models.export import export
from flows.models.served_ensemble import ServedEnsemble
from lightning_modules.ensembles import Combiner
from lightning_modules.images import normalize

AIRBENCH = {"name": "airbench", "widths": [4, 4], "depth": 2}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (1030, *SHAPE), np.uint8)  # more than one batch


@torch.inference_mode()
def before_the_last_layer(member, images) -> np.ndarray:
    seen = []
    last = [module for module in member.network.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    member.network(normalize(torch.tensor(images), member.mean, member.std))
    handle.remove()
    return seen[0].numpy()


@pytest.mark.parametrize(
    ("network", "views"), [(MLP, "mirror_shift"), (CNN, "none"), (RESNET, "mirror_shift"), (AIRBENCH, "none")],
    ids=lambda given: given if isinstance(given, str) else given["name"],
)  # fmt: skip
def test_an_embedding_is_what_goes_into_the_last_linear_layer(tmp_path, images, network, views):
    member = predictor(0, network, views=views)
    export([member], Combiner("soft_vote"), SHAPE, NAMES, tmp_path)
    probabilities, embeddings = predict_and_embed(ServedEnsemble(tmp_path), images)
    np.testing.assert_allclose(embeddings, before_the_last_layer(member, images), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probabilities, ServedEnsemble(tmp_path).predict(images)[NAMES], rtol=1e-3, atol=1e-5)


def test_an_ensemble_has_the_embeddings_of_one_network_of_each_kind(tmp_path, images):
    members = [predictor(0, MLP), predictor(1, MLP), predictor(2, RESNET)]
    export(members, Combiner("soft_vote"), SHAPE, NAMES, tmp_path)
    probabilities, embeddings = predict_and_embed(ServedEnsemble(tmp_path), images)
    expected = np.concatenate([before_the_last_layer(members[number], images) for number in (0, 2)], 1)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probabilities, ServedEnsemble(tmp_path).predict(images)[NAMES], rtol=1e-3, atol=1e-5)


class Nearest(nn.Module):
    """A network without a linear layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (-(images.float().mean((1, 2)) / 255 - 0.5).square()).log_softmax(1)


def test_a_champion_without_a_linear_layer_has_no_embeddings(tmp_path, images):
    export([Nearest().eval()], Combiner("soft_vote"), SHAPE, NAMES, tmp_path)
    probabilities, embeddings = predict_and_embed(ServedEnsemble(tmp_path), images)
    assert embeddings.shape == (len(images), 0)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
