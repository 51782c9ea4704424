"""What the optimizers written here have in common: groups, state, and learning rates that may be tensors."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch's functions for many tensors take and give

# The least sum of squared gradients. Its root divides a weight that has had no gradient yet, and 0/0 is no number.
LEAST = 1e-30


class Elementwise(Optimizer):
    """An optimizer whose update of one weight depends on no other weight.

    A group's `lr` and `weight_decay` are numbers, or tensors that broadcast against each of the group's parameters:
    with parameters R×... a tensor R×1×... holds a value for each of R stacked networks. A learning rate of 0 changes
    neither weights nor state; the first one of a tensor must not be 0.

    Args:
        params: parameters, or groups of them.
        settings: lr, weight_decay (added to the gradient times the weight, as in torch's Adagrad) and the optimizer's
            own hyper-parameters.

    Raises:
        ValueError: a hyper-parameter is out of its range.
    """

    STATE: tuple[str, ...] = ()  # names of the tensors that it keeps for each parameter, like the parameter
    DECOUPLED = False  # whether `update` sees to the weight decay

    def __init__(self, params: Iterable, settings: dict[str, Any]) -> None:
        for key in ("lr", "weight_decay"):
            check(key, settings[key], 0 <= settings[key] < math.inf, "a number from 0")
        super().__init__(params, settings)

    def begin(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        """The state before a parameter's first step."""
        return {name: torch.zeros_like(parameter) for name in self.STATE}

    def before(self, group: dict) -> None:
        """What a step does once per group before it updates weights."""

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
            if not parameters or (not isinstance(group["lr"], Tensor) and group["lr"] == 0):
                continue
            self.before(group)
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = self.begin(parameter, group)
            gradients = [parameter.grad for parameter in parameters]
            states = [[self.state[parameter][name] for parameter in parameters] for name in self.STATE]
            rates = group["lr"]
            # On a GPU it costs less to keep what was than to wait for the answer.
            if isinstance(rates, Tensor) and (rates.is_cuda or not bool((rates > 0).all())):
                self.update_resting(group, parameters, gradients, states)
                continue
            self.update(group, parameters, self.decayed(group, parameters, gradients), *states)
        return loss

    def update_resting(self, group: dict, parameters: Tensors, gradients: Tensors, states: Sequence[Tensors]) -> None:
        """Like `update`, but keeps what was where the tensor of learning rates is 0."""
        changed = [tensor for column in (parameters, *states) for tensor in column]
        old = [tensor.clone() for tensor in changed]
        self.update(group, parameters, self.decayed(group, parameters, gradients), *states)
        moves = group["lr"] > 0
        for tensor, before in zip(changed, old):
            torch.where(moves, tensor, before, out=tensor)

    def decayed(self, group: dict, parameters: Tensors, gradients: Tensors) -> Tensors:
        """The gradients with the weight decay's part, in new tensors; the gradients themselves if there is none."""
        decay = group["weight_decay"]
        if self.DECOUPLED:
            return gradients
        if isinstance(decay, Tensor):
            return [gradient + decay * parameter for gradient, parameter in zip(gradients, parameters)]
        return torch._foreach_add(gradients, parameters, alpha=decay) if decay else gradients


def check(key: str, value: Any, right: bool, want: str) -> None:
    """Raises ValueError unless the value of a hyper-parameter is right. A NaN has to fail `right`."""
    if not right:
        raise ValueError(f"{key} is {value}, but has to be {want}")


def divide(tensors: Tensors, by: float | Tensor) -> None:
    """Divides each tensor, in place, by a number or by a tensor that broadcasts against it."""
    if isinstance(by, Tensor):
        for tensor in tensors:
            tensor.div_(by)
    else:
        torch._foreach_mul_(tensors, 1 / by)


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
