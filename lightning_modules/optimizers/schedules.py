"""Learning-rate schedules by name."""

import math
from collections.abc import Callable
from functools import partial

from torch import optim

from lightning_modules import names

# Factor on the learning rate as a function of the share of planned steps that are done.
SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),  # Loshchilov and Hutter, SGDR, 2017
}


def schedule(given: str | dict, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LambdaLR:
    """The learning-rate schedule over `steps` mini-batches, to be stepped after each of them.

    A group of parameters with `until` runs through the schedule in that share of the steps; then its rate is zero.

    Args:
        given: a recipe's `schedule`: a name, or a mapping with its hyper-parameters.
    """
    settings = names.completed(given, names.SCHEDULES)
    factor = partial(SCHEDULES[settings.pop("name")], **settings)

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
