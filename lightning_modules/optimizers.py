"""Optimizers and learning-rate schedules by name: torch.optim's meaning of each."""

import inspect
import math
from collections.abc import Iterable

import torch
from torch import optim

from lightning_modules.errors import InputError

OPTIMIZERS = {
    "adadelta": (optim.Adadelta, {}),
    "adafactor": (optim.Adafactor, {}),
    "adagrad": (optim.Adagrad, {}),
    "adam": (optim.Adam, {}),
    "adamax": (optim.Adamax, {}),
    "adamw": (optim.AdamW, {}),
    "asgd": (optim.ASGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
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


def build(settings: dict, parameters: Iterable[torch.nn.Parameter | dict]) -> optim.Optimizer:
    """The optimizer that a recipe's `optimizer` names.

    Args:
        settings: name, lr, weight_decay and hyper-parameters of torch's class of that name.
        parameters: or torch's groups of them.

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


# Those whose update of one weight depends on other weights of the same tensor.
NOT_ELEMENTWISE = ("adafactor",)


def build_stacked(settings: list[dict], parameters: list[torch.nn.Parameter]) -> optim.Optimizer:
    """The optimizer of networks whose parameters are stacked, which treats each as if it were alone.

    Args:
        settings: of each network; they may differ in lr and weight_decay.
        parameters: each with a first dimension over the networks.
    """
    if all(given == settings[0] for given in settings) and settings[0]["name"] not in NOT_ELEMENTWISE:
        return build(settings[0], parameters)
    for given in settings:
        build(given, [torch.nn.Parameter(torch.zeros(2, 2))])  # which refuses what cannot be used
    groups = [[parameter.detach()[number] for parameter in parameters] for number in range(len(settings))]
    own = [{key: given[key] for key in ("lr", "weight_decay")} for given in settings]
    optimizer = build(settings[0], [{"params": group} | rates for group, rates in zip(groups, own)])

    # Weights are shared with the stacked parameters at all times, gradients from the beginning of a step to its end.
    def share_gradients(*_: object) -> None:
        for number, group in enumerate(groups):
            for view, parameter in zip(group, parameters):
                view.grad = None if parameter.grad is None else parameter.grad[number]

    def drop_gradients(*_: object) -> None:
        for parameter in parameters:
            parameter.grad = None

    optimizer.register_step_pre_hook(share_gradients)
    optimizer.register_step_post_hook(drop_gradients)
    return optimizer


def schedule(name: str, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LRScheduler:
    """A schedule over `steps` mini-batches, to be stepped after each of them."""
    factor = SCHEDULES[name]
    return optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(min(step / steps, 1.0)))
