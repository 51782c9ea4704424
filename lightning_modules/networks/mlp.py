"""A network of fully connected layers."""

from collections.abc import Sequence

from torch import nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import dense, dropouts


def mlp(
    shape: Shape,
    classes: int,
    activation: Activation,
    dropout: Dropouts,
    hidden: Sequence[int],
    batch_norm: bool = False,
) -> nn.Module:
    """Fully connected layers, as many hidden ones as `hidden` has widths, dropout after each of them."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = shape[0] * shape[1] * shape[2]
    for size, dropping in zip(hidden, dropouts(dropout, len(hidden))):
        layers += [*dense(width, size, activation, batch_norm), dropping]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes))
