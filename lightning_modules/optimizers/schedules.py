"""Learning-rate schedules by name. Each multiplies the recipe's learning rate by a factor of its own."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import optim

from lightning_modules import names

# What a share of the training may be above its exact value: (1/3)·3 is not always 1.
SLACK = 1e-9


def constant(done: float, step: float) -> float:
    return 1.0


def linear(done: float, step: float) -> float:
    """From the recipe's learning rate to 0."""
    return 1.0 - done


def stepwise(done: float, step: float, every: float, factor: float) -> float:
    """Multiplied by `factor` after each share `every` of the training."""
    return factor ** math.floor(done / every + SLACK)


def cosine(done: float, step: float, warmup: float) -> float:
    """Along half a wave of a cosine to 0, after a linear warm-up over the share `warmup` of the training.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017; the warm-up: Goyal et
    al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017. The first step's rate is above 0, and the
    warm-up's last one below the full one, so that no step is wasted.
    """
    if done < warmup:
        return (done + step) / (warmup + step)
    return 0.5 * (1.0 + math.cos(math.pi * ((done - warmup) / (1.0 - warmup))))


def cosine_restarts(done: float, step: float, cycles: int) -> float:
    """Along `cycles` half waves of a cosine, each from the recipe's learning rate to 0; stays at 0 after the last.

    Source: Loshchilov and Hutter, 2017, as for `cosine`.
    """
    if done >= 1.0:
        return 0.0
    position = done * cycles + SLACK
    return 0.5 * (1.0 + math.cos(math.pi * (position - math.floor(position))))


def one_cycle(done: float, step: float, warmup: float, div_factor: float, final_div_factor: float) -> float:
    """Up along a cosine from 1/div_factor over the share `warmup` of the training, and down to
    1/(div_factor·final_div_factor) at its last step. The momentum stays as it is.

    Source: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018;
    as torch's OneCycleLR computes it.
    """
    low, lowest = 1 / div_factor, 1 / (div_factor * final_div_factor)
    peak, end = warmup - step, 1.0 - step

    def between(start: float, stop: float, share: float) -> float:
        return stop + (start - stop) / 2 * (1.0 + math.cos(math.pi * share))

    if done <= peak:
        return between(low, 1.0, done / peak if peak else 1.0)
    if done >= end:
        return lowest
    return between(1.0, lowest, (done - max(peak, 0.0)) / (end - max(peak, 0.0)))


class ReduceOnPlateau:
    """Multiplied by `factor` after more than `patience` epochs in a row without a better value of what is monitored.

    As torch's ReduceLROnPlateau without cool-down. A scheduler's state_dict has its attributes: a resumed training goes
    on as if uninterrupted.

    Args:
        end: the step from which the factor is 0, or infinity.
        threshold: the share of the best value by which a better one has to be better.
    """

    def __init__(self, end: float, factor: float, patience: int, threshold: float) -> None:
        self.end, self.factor, self.patience, self.threshold = end, factor, patience, threshold
        self.now, self.best, self.waited = 1.0, math.inf, 0

    def __call__(self, step: int) -> float:
        return self.now if step < self.end else 0.0

    def judge(self, value: float) -> None:
        """Takes an epoch's value, of which less is better."""
        better = self.best == math.inf or value < self.best - self.threshold * abs(self.best)
        self.best = value if better else self.best
        self.waited = 0 if better else self.waited + 1
        if self.waited > self.patience:
            self.now *= self.factor
            self.waited = 0


# Functions give the factor from the share of the planned steps that are done, and the share that one step is.
SCHEDULES: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "linear": linear,
    "one_cycle": one_cycle,
    "reduce_on_plateau": ReduceOnPlateau,
    "step": stepwise,
}


def completed(given: str | dict) -> dict:
    """A schedule's name and all its hyper-parameters.

    Raises:
        InputError: one is out of its range.
    """
    settings = names.completed(given, names.SCHEDULES)
    name = settings.pop("name")
    return {"name": name} | {key: names.within(name, key, value) for key, value in settings.items()}


def schedule(given: str | dict, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LambdaLR:
    """The learning-rate schedule over `steps` mini-batches, to be stepped after each of them, and told about the end of
    each epoch with `epoch_ended`.

    A group of parameters with `until` runs through the schedule in that share of the steps; then its rate is zero.

    Args:
        given: a recipe's `schedule`: a name, or a mapping with its hyper-parameters.

    Raises:
        InputError: a hyper-parameter is out of its range.
    """
    settings = completed(given)
    kind = SCHEDULES[settings.pop("name")]

    def over(until: float) -> Callable[[int], float]:
        if kind is ReduceOnPlateau:
            return ReduceOnPlateau(math.inf if until == 1 else steps * until, **settings)
        factor, planned = partial(kind, step=1 / (steps * until), **settings), steps * until
        return lambda step: factor(min(step / planned, 1.0)) if until == 1 or step < planned else 0.0

    return optim.lr_scheduler.LambdaLR(optimizer, [over(group.get("until", 1.0)) for group in optimizer.param_groups])


def goes_by_validation(given: str | dict) -> bool:
    """Whether a schedule depends on how well its network does on validation, so that networks cannot share it."""
    return SCHEDULES[names.name_of(given)] is ReduceOnPlateau


def last_rates(scheduler: optim.lr_scheduler.LambdaLR) -> list[float]:
    """The learning rates of the last step, one per parameter group. The optimizer's own groups have the next step's.

    To be asked before `epoch_ended`.
    """
    done = scheduler.last_epoch - 1
    return [float(rate) * factor(done) for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas)]


def epoch_ended(scheduler: optim.lr_scheduler.LambdaLR, value: float) -> None:
    """Tells a schedule that goes by validation how an epoch has ended, and sets the next step's learning rates.

    Args:
        value: of what is monitored; less is better.
    """
    for group, rate, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas):
        if isinstance(factor, ReduceOnPlateau):
            factor.judge(value)
            group["lr"] = rate * factor(scheduler.last_epoch)


def freeze_ended(optimizer: optim.Optimizer) -> None:
    """Stops computing gradients for parameters whose share of the training (`until`) is over."""
    for group in optimizer.param_groups:
        if "until" in group and not group["lr"]:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
