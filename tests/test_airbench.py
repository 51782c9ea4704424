"""The network of airbench: what is whitened is white, what is frozen stays, and the published sizes are met."""

import pytest
import torch
from torch import nn

from lightning_modules import names, networks, optimizers
from lightning_modules.networks.airbench import Airbench, Block, Norm, Whitening


def correlated(count: int = 200, side: int = 12, channels: int = 3) -> torch.Tensor:
    """Smooth images: neighbours and channels go together."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, side // 3, side // 3, generator=random)
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return smooth + 0.3 * torch.randn(count, channels, side, side, generator=random)


def built(shape=(32, 32, 3), seed: int = 0, **settings) -> Airbench:
    torch.manual_seed(seed)
    recipe = {
        "network": {"name": "airbench", **names.NETWORKS["airbench"], **settings},
        "activation": "gelu", "initializer": "dirac", "dropout": 0.0,
    }  # fmt: skip
    return networks.build(recipe, shape, 10)


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    images = correlated()
    whitening = Whitening((12, 12, 3))
    whitening.fit(images)
    responses = whitening(images).permute(0, 2, 3, 1).reshape(-1, 24)
    covariance = responses.T @ responses / len(responses)
    torch.testing.assert_close(covariance[:12, :12], torch.eye(12), atol=0.05, rtol=0)
    # The other half are the same filters with the opposite sign.
    torch.testing.assert_close(covariance[:12, 12:], -covariance[:12, :12])


def test_whitening_is_the_same_for_the_same_images_and_never_infinite():
    first, second = Whitening((12, 12, 1)), Whitening((12, 12, 1))
    for whitening in (first, second):
        whitening.fit(correlated(channels=1))
    assert torch.equal(first.filters, second.filters)
    first.fit(torch.zeros(5, 1, 12, 12))
    assert first.filters.isfinite().all()


def test_filters_are_saved_but_no_optimizer_sees_them():
    network = built()
    network.prepare(correlated(side=32, count=20))
    assert "whitening.filters" in network.state_dict()
    optimizer = optimizers.build({"name": "muon", "lr": 0.1, "weight_decay": 0.1}, networks.groups(network))
    before = network.whitening.filters.clone()
    network(correlated(side=32, count=4)).square().sum().backward()
    optimizer.step()
    assert torch.equal(network.whitening.filters, before)
    restored = built(seed=1)
    restored.load_state_dict(network.state_dict())
    given = correlated(side=32, count=4)
    assert torch.equal(restored.eval()(given), network.eval()(given))


def test_the_sizes_are_the_published_ones():
    """Counted by hand from arXiv:2404.00498: filters, whitening's bias, norms' biases and the last layer."""
    filters = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    expected = filters + 24 + 2 * (64 + 256 + 256) + 10 * 256
    assert sum(parameter.numel() for parameter in built().parameters()) == expected == 1_971_352
    ten = built(widths=[128, 512, 512], depth=3)
    assert sum(isinstance(layer, nn.Conv2d) for layer in ten.modules()) == 9  # beside the whitening


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_block_has_its_depth_of_convolutions_and_halves_the_sides(depth):
    block = Block(3, 8, depth, (2, 2), nn.GELU)
    assert sum(isinstance(layer, nn.Conv2d) for layer in block.modules()) == depth
    assert block(torch.randn(4, 3, 9, 9)).shape == (4, 8, 4, 4)


def test_a_deep_block_hands_on_what_enters_it_where_its_body_is_silent():
    given = torch.randn(4, 3, 8, 8)
    for depth, passes in ((2, False), (3, True)):
        block = Block(3, 8, depth, (2, 2), nn.ReLU)
        nn.init.zeros_(block.body[-2].weight)
        assert block(given).any() == passes
        if passes:
            assert torch.equal(block(given), block.entrance(given))


def test_a_norm_has_a_bias_to_learn_and_no_scale():
    norm = Norm(4)
    assert [name for name, _ in norm.named_parameters()] == ["bias"]
    given = torch.randn(50, 4, 3, 3) * 5 + 2
    torch.testing.assert_close(norm(given), nn.BatchNorm2d(4)(given))


def test_only_the_whitenings_bias_ends_early():
    network = built()
    assert list(network.ending()) == [network.whitening.bias]
