"""Activation functions by name."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_modules import names
from lightning_modules.activations.maxout import Maxout

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "maxout": Maxout,
    "mish": nn.Mish,
    "prelu": nn.PReLU,  # He et al., 2015: a learned slope below zero, one a layer
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class Activation:
    """Makes the activation layers of a network, one a call.

    Attributes:
        pieces: inputs that the layer takes for each output: the layer before it is that many times as wide.
    """

    kind: type[nn.Module]
    settings: dict[str, Any]
    pieces: int = 1

    def __call__(self) -> nn.Module:
        return self.kind(**self.settings)


def build(given: str | dict) -> Activation:
    """What makes the layers of a recipe's `activation`: a name, or a mapping with its hyper-parameters."""
    settings = names.completed(given, names.ACTIVATIONS)
    return Activation(ACTIVATIONS[settings.pop("name")], settings, settings.get("pieces", 1))
