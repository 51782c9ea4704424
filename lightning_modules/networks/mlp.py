"""A network of fully connected layers."""

from collections.abc import Sequence

from torch import nn

from lightning_modules.networks.interface import Activation, Shape
from lightning_modules.regularization.dropout import Dropout


def mlp(shape: Shape, classes: int, activation: Activation, dropout: float, hidden: Sequence[int]) -> nn.Module:
    """Fully connected layers, dropout after each hidden one."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = shape[0] * shape[1] * shape[2]
    for size in hidden:
        layers += [nn.Linear(width, size), activation(), Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes))
