"""Test-time views: the mean of the logits of what one would see."""

import pytest
import torch
from torch import nn

from lightning_modules import names
from lightning_modules.views import VIEWS, logits


def images(count: int = 3, height: int = 6, width: int = 5) -> torch.Tensor:
    return torch.randn(count, 2, height, width, generator=torch.Generator().manual_seed(0))


def network(height: int = 6, width: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * height * width, 4), nn.Tanh())


def test_the_known_names_are_those_of_the_code():
    assert set(names.VIEWS) == set(VIEWS)


@pytest.mark.parametrize("size", [(6, 5), (1, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("name", VIEWS)
def test_weights_sum_to_one_and_views_have_the_images_shape(name, size):
    given = images(3, *size)
    weights, views = zip(*VIEWS[name](given))
    assert sum(weights) == pytest.approx(1)
    assert all(view.shape == given.shape for view in views)
    assert torch.equal(views[0], given)


def test_without_views_the_logits_are_the_networks():
    assert torch.equal(logits(network(), images(), "none"), network()(images()))


def test_an_image_and_its_mirror_image_have_the_same_logits():
    made = logits(network(), images(), "mirror")
    torch.testing.assert_close(made, logits(network(), images().flip(3), "mirror"))
    assert not torch.allclose(made, network()(images()))


def test_the_six_views_are_the_published_ones():
    given, trained = images(), network()
    lower_right, upper_left = torch.empty_like(given), torch.empty_like(given)
    rows, columns = given.shape[2:]
    for row in range(rows):
        for column in range(columns):
            # One pixel away, and at the border the neighbour on the inside: reflected.
            lower_right[:, :, row, column] = given[:, :, abs(row - 1), abs(column - 1)]
            below = row + 1 if row + 1 < rows else rows - 2
            beside = column + 1 if column + 1 < columns else columns - 2
            upper_left[:, :, row, column] = given[:, :, below, beside]
    expected = sum(
        share * (trained(view) + trained(view.flip(3))) / 2
        for share, view in ((0.5, given), (0.25, lower_right), (0.25, upper_left))
    )
    torch.testing.assert_close(logits(trained, given, "mirror_shift"), expected)
