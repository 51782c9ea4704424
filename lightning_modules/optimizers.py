"""Optimizers and learning-rate schedules by name: torch.optim's meaning of each."""

import inspect
import math
from collections.abc import Iterable

import torch
from torch import optim

from lightning_modules.errors import InputError
from lightning_modules.muon import Muon

OPTIMIZERS = {
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

# Factor on the learning rate, by the fraction of all planned steps that is behind.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),  # Loshchilov and Hutter, SGDR, 2017
}


def build(settings: dict, parameters: Iterable[torch.nn.Parameter] | Iterable[dict]) -> optim.Optimizer:
    """The optimizer that a recipe's `optimizer` names.

    Args:
        settings: name, lr, weight_decay and hyper-parameters of torch's class of that name.
        parameters: or groups of them, see `networks.groups`.

    Raises:
        InputError: torch refuses the hyper-parameters.
    """
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    kind, preset = OPTIMIZERS[given.pop("name")]
    accepted = inspect.signature(kind).parameters
    if "weight_decay" not in accepted and not given["weight_decay"]:
        del given["weight_decay"]
    # One kernel for all parameters instead of a dozen for each.
    fused = {"fused": True} if "fused" in accepted else {}
    try:
        return kind(list(parameters), **(preset | given | fused))
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"optimizer {settings['name']} refuses {given}: {error}") from None


def schedule(name: str, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LRScheduler:
    """A schedule over `steps` mini-batches, to be stepped after each of them. Groups of parameters that are trained
    `until` a share of them have a schedule over that share, and a learning rate of zero from there on."""
    factor = SCHEDULES[name]

    def over(until: float):
        return lambda step: factor(min(step / (steps * until), 1.0)) if until == 1 or step < steps * until else 0.0

    return optim.lr_scheduler.LambdaLR(optimizer, [over(group.get("until", 1.0)) for group in optimizer.param_groups])


def freeze_ended(optimizer: optim.Optimizer) -> None:
    """Computes no more gradients for parameters whose share of the training is behind."""
    for group in optimizer.param_groups:
        if "until" in group and not group["lr"]:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
