"""Optimizers and learning-rate schedules by name. A name means what it means in torch.optim."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import optim

from lightning_modules.errors import InputError
from lightning_modules.muon import Muon

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

# Factor on the learning rate as a function of the share of planned steps that are done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),  # Loshchilov and Hutter, SGDR, 2017
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


# Optimizers whose update of one weight depends on other weights of the same tensor.
NOT_ELEMENTWISE = ("adafactor", "muon")


def build_stacked(settings: list[dict], parameters: list[torch.nn.Parameter]) -> optim.Optimizer:
    """Builds one optimizer for stacked networks. It updates each network as if it were alone.

    Args:
        settings: the `optimizer` of each network's recipe; they may differ in lr and weight_decay.
        parameters: stacked: the first dimension of each is over the networks.
    """
    if all(given == settings[0] for given in settings) and settings[0]["name"] not in NOT_ELEMENTWISE:
        return build(settings[0], parameters)
    groups = [[parameter.detach()[number] for parameter in parameters] for number in range(len(settings))]
    optimizer = build(settings[0], groups[0])
    for given, group in zip(settings[1:], groups[1:]):
        for own in build(given, group).param_groups:
            optimizer.add_param_group(own)

    # Views share memory with the stacked weights at all times, and with their gradients only during a step.
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


def schedule(name: str, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LambdaLR:
    """The learning-rate schedule over `steps` mini-batches, to be stepped after each of them.

    A group of parameters with `until` runs through the schedule in that share of the steps; then its rate is zero.
    """
    factor = SCHEDULES[name]

    def over(until: float) -> Callable[[int], float]:
        return lambda step: factor(min(step / (steps * until), 1.0)) if until == 1 or step < steps * until else 0.0

    return optim.lr_scheduler.LambdaLR(optimizer, [over(group.get("until", 1.0)) for group in optimizer.param_groups])


def last_rates(scheduler: optim.lr_scheduler.LambdaLR) -> list[float]:
    """The learning rates of the last step, one per parameter group. The optimizer's own groups have the next step's."""
    done = scheduler.last_epoch - 1
    return [float(rate) * factor(done) for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas)]


def freeze_ended(optimizer: optim.Optimizer) -> None:
    """Stops computing gradients for parameters whose share of the training (`until`) is over."""
    for group in optimizer.param_groups:
        if "until" in group and not group["lr"]:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
