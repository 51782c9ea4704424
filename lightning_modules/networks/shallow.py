"""A network with one hidden layer."""

from torch import nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.mlp import mlp


def shallow(shape: Shape, classes: int, activation: Activation, dropout: Dropouts, hidden: int) -> nn.Module:
    """One hidden layer of `hidden` units, dropout after it."""
    return mlp(shape, classes, activation, dropout, [hidden])
