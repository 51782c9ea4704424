"""Builds an optimizer by its name. A name means what it means in torch.optim."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import optim

from lightning_modules.errors import InputError
from lightning_modules.optimizers.muon import Muon

OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], dict[str, Any]]] = {
    "adadelta": (optim.Adadelta, {}),
    "adafactor": (optim.Adafactor, {}),
    "adagrad": (optim.Adagrad, {}),
    "adam": (optim.Adam, {}),
    "adamax": (optim.Adamax, {}),
    "adamw": (optim.AdamW, {}),
    "asgd": (optim.ASGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "muon": (Muon, {}),
    "nadam": (optim.NAdam, {}),
    "nag": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "radam": (optim.RAdam, {}),
    "rmsprop": (optim.RMSprop, {}),
    "rprop": (optim.Rprop, {}),
    "sgd": (optim.SGD, {}),
}


def build(settings: dict, parameters: Iterable[torch.Tensor | dict]) -> optim.Optimizer:
    """Builds the optimizer of a recipe.

    Args:
        settings: the recipe's `optimizer`: name, lr, weight_decay, and hyper-parameters of torch's class.
        parameters: parameters, or groups of them, see `networks.groups`.

    Raises:
        InputError: torch refuses the hyper-parameters.
    """
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    kind, preset = OPTIMIZERS[given.pop("name")]
    accepted = inspect.signature(kind).parameters
    if "weight_decay" not in accepted and not given["weight_decay"]:
        del given["weight_decay"]
    parameters, how = list(parameters), {}
    if kind is optim.ASGD and on_gpu(parameters):
        how["capturable"] = True  # else each step reads two numbers per parameter back from the GPU and waits for them
    # Fused: one kernel for all parameters instead of a dozen for each. Before torch 2.12 Adagrad has it on CPUs only.
    if "fused" in accepted and not (kind is optim.Adagrad and on_gpu(parameters)):
        how["fused"] = True
    try:
        return kind(parameters, **(preset | given | how))
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"optimizer {settings['name']} refuses {given}: {error}") from None


def on_gpu(parameters: list) -> bool:
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    return first.is_cuda
