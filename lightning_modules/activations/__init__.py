"""Activation functions by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from lightning_modules import names

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
}


def build(given: str | dict) -> Callable[[], nn.Module]:
    """What makes the layer of a recipe's `activation`: a name, or a mapping with its hyper-parameters."""
    settings = names.completed(given, names.ACTIVATIONS)
    return partial(ACTIVATIONS[settings.pop("name")], **settings)
