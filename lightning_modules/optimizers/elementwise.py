"""What the optimizers written here have in common: groups, state, and learning rates that may be tensors."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.names import CHOICES

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch's functions for many tensors take and give

# The least sum of squared gradients: its root divides a weight that has had no gradient yet, and 0/0 is no number. And
# the least learning rate, of which some updates take the inverse.
LEAST = 1e-30

# What each hyper-parameter may be: a test, which NaN fails, and its words.
FROM_ZERO = (lambda value: 0 <= value < math.inf, "a number from 0")
BELOW_ONE = (lambda value: 0 <= value < 1, "at least 0 and less than 1")
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("lr", "weight_decay", "initial_accumulator_value", "l1", "l2", "eps"), FROM_ZERO),
    **dict.fromkeys(("alpha", "momentum"), BELOW_ONE),
    "betas": (lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value), "two numbers from 0 below 1"),
    "lr_power": (lambda value: -math.inf < value <= 0, "a number up to 0"),
    "anchor": (lambda value: value in CHOICES["anchor"], " or ".join(CHOICES["anchor"])),
}


class Elementwise(Optimizer):
    """An optimizer whose update of one weight depends on no other weight.

    A group's `lr` and `weight_decay` are numbers, or tensors that broadcast against each of the group's parameters:
    with parameters R×... a tensor R×1×... holds a value for each of R stacked networks. A learning rate below `LEAST`
    changes neither weights nor state; in a tensor there must be none.

    Args:
        params: parameters, or groups of them.
        settings: lr, weight_decay (added to the gradient times the weight, as in torch's Adagrad) and the optimizer's
            own hyper-parameters.

    Raises:
        ValueError: a hyper-parameter is not what `RANGES` says.
    """

    STATE: tuple[str, ...] = ()  # names of the tensors that it keeps for each parameter, like the parameter
    DECOUPLED = False  # whether `update` sees to the weight decay

    def __init__(self, params: Iterable, **settings: Any) -> None:
        for key, value in settings.items():
            fits, want = RANGES[key]
            if not fits(value):
                raise ValueError(f"{key} is {value}, but has to be {want}")
        super().__init__(params, settings)

    def begin(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        """The state before a parameter's first step."""
        return {name: torch.zeros_like(parameter) for name in self.STATE}

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        """Updates the parameters and the tensors that STATE names, in place; the gradients stay as they are."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters or (not isinstance(group["lr"], Tensor) and group["lr"] < LEAST):
                continue
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = self.begin(parameter, group)
            gradients = [parameter.grad for parameter in parameters]
            states = [[self.state[parameter][name] for parameter in parameters] for name in self.STATE]
            self.update(group, parameters, self.decayed(group, parameters, gradients), *states)
        return loss

    def decayed(self, group: dict, parameters: Tensors, gradients: Tensors) -> Tensors:
        """The gradients with the weight decay's part, in new tensors; the gradients themselves if there is none."""
        decay = group["weight_decay"]
        if self.DECOUPLED:
            return gradients
        if isinstance(decay, Tensor):
            return [gradient + decay * parameter for gradient, parameter in zip(gradients, parameters)]
        return torch._foreach_add(gradients, parameters, alpha=decay) if decay else gradients


def divide(tensors: Tensors, by: float | Tensor) -> None:
    """Divides each tensor, in place, by a number or by a tensor that broadcasts against it."""
    if isinstance(by, Tensor):
        for tensor in tensors:
            tensor.div_(by)
    else:
        torch._foreach_mul_(tensors, 1 / by)


def add(tensors: Tensors, value: float | Tensor) -> None:
    """Adds a number, or a tensor that broadcasts against it, to each tensor, in place."""
    if isinstance(value, Tensor):
        for tensor in tensors:
            tensor.add_(value)
    else:
        torch._foreach_add_(tensors, value)


def add_scaled(tensors: Tensors, others: Tensors, scale: float | Tensor) -> None:
    """Adds `scale` times another tensor to each, in place."""
    if isinstance(scale, Tensor):
        for tensor, other in zip(tensors, others):
            tensor.addcmul_(other, scale)
    else:
        torch._foreach_add_(tensors, others, alpha=scale)


def shrink(tensors: Tensors, by: float | Tensor, into: Tensors) -> None:
    """Writes each value, moved towards 0 by `by`, and exactly 0 where it is not farther away: the proximal step of the
    L1 norm.

    Args:
        into: where to; may be `tensors`.
    """
    for tensor, result in zip(tensors, into):
        if isinstance(by, Tensor):
            torch.sub(tensor, tensor.clamp(-by, by), out=result)
        else:
            torch._C._nn.softshrink(tensor, by, out=result)  # type: ignore[call-arg]  # the stub lacks `out`


def adagrad(parameters: Tensors, gradients: Tensors, squares: Tensors, rate: float | Tensor) -> None:
    """A step of Adagrad, without an epsilon: squares += gradients², parameters -= rate · gradients / √squares."""
    if parameters[0].device.type == "cpu" and not isinstance(rate, Tensor):
        # torch's own fused step, which reads the number of steps only for a decay of the rate.
        steps = [torch.ones(())] * len(parameters)
        torch._fused_adagrad_(
            parameters, gradients, squares, steps,
            lr=rate, lr_decay=0.0, weight_decay=0.0, eps=0.0, maximize=False,
        )  # fmt: skip
        return
    torch._foreach_addcmul_(squares, gradients, gradients)
    directions = torch._foreach_div(gradients, torch._foreach_sqrt(squares))
    add_scaled(parameters, directions, -rate)
