"""A small convolutional network."""

from collections.abc import Sequence

from torch import nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import convolution, dense, dropouts, halved, limited


def cnn(
    shape: Shape,
    classes: int,
    activation: Activation,
    dropout: Dropouts,
    channels: Sequence[int],
    hidden: int,
    batch_norm: bool = False,
) -> nn.Module:
    """Five convolutions, two fully connected layers: conv5×5, pool, conv5×5, pool, three conv3×3, fc, dropout, out."""
    layers: list[nn.Module] = []
    size, width = shape[:2], shape[2]
    for count in channels[:2]:
        window, size = halved(size)
        layers += convolution(width, count, 5, activation, batch_norm, pool=nn.MaxPool2d(window))
        width = count
    for count in channels[2:]:
        layers += convolution(width, count, 3, activation, batch_norm)
        width = count
    pooling, size = limited(size)
    layers += [*pooling, nn.Flatten(), *dense(width * size[0] * size[1], hidden, activation, batch_norm)]
    return nn.Sequential(*layers, *dropouts(dropout, 1), nn.Linear(hidden, classes))
