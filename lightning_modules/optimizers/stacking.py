"""One optimizer for stacked networks, each of which has an optimizer, a learning rate and a weight decay of its own.

The weights of all networks lie in one matrix, a row a network, so that an operation of an optimizer is one operation
for all networks that it trains, not one for each of their layers.

Most updates are proportional to the learning rate. There torch's own step is made at rate 1, and each network adds its
row of the result times its own rate.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from lightning_modules.optimizers.building import LINEAR, TAKES_TENSORS, build
from lightning_modules.optimizers.elementwise import LEAST
from lightning_modules.optimizers.stacked_muon import StackedMuon
from lightning_modules.optimizers.stacked_torch import Stacked, StackedAdafactor, StackedASGD, StackedRprop

# Those that have a version for stacked networks.
STACKED: dict[str, type[Stacked]] = {
    "adafactor": StackedAdafactor,
    "asgd": StackedASGD,
    "muon": StackedMuon,
    "rprop": StackedRprop,
}
# Those that decay weights apart from the gradient.
DECOUPLED = ("adamw", "lion")


class StackedOptimizer(optim.Optimizer):
    """Updates each of stacked networks as if it were alone, up to rounding. The learning rate of its only group is a
    factor on those of the networks.

    Args:
        settings: the `optimizer` of each network's recipe.
        groups: of stacked parameters, see `networks.groups`: the first dimension of each is over the networks. They are
            moved in memory. A group may have a `weight_decay` of its own, 0.

    Attributes:
        rates: the learning rate of each network.

    Raises:
        InputError: torch refuses the hyper-parameters.
    """

    def __init__(self, settings: Sequence[dict], groups: Sequence[dict]) -> None:
        for given in settings:  # what a part does itself, torch does not see: it would not refuse it
            build(given, [nn.Parameter(torch.zeros(1, 1))])
        self.groups = groups
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        super().__init__(self.parameters, {"lr": 1.0})
        self.rates: list[float] = [given["lr"] for given in settings]
        self.weights = in_one_matrix(self.parameters)
        self.gradients = torch.zeros_like(self.weights)
        self.decays = decays(settings, groups, self.weights)
        self.parts: list[Part] = []
        for _, alike in itertools.groupby(range(len(settings)), lambda number: without_rates(settings[number])):
            numbers = list(alike)
            rows = slice(numbers[0], numbers[-1] + 1)
            self.parts.append(part(settings[rows], self, rows))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        [group] = self.param_groups
        torch.cat([gradient_of(parameter).flatten(1) for parameter in self.parameters], 1, out=self.gradients)
        for part in self.parts:
            part.step(group["lr"])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "parts"})


def in_one_matrix(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Moves stacked parameters into one matrix, networks × weights of a network, of which they become views."""
    matrix = torch.cat([parameter.detach().flatten(1) for parameter in parameters], 1)
    start = 0
    for parameter in parameters:
        size = parameter[0].numel()
        parameter.data = matrix[:, start : start + size].unflatten(1, parameter.shape[1:])
        start += size
    return matrix


def decays(settings: Sequence[dict], groups: Sequence[dict], weights: Tensor) -> Tensor | None:
    """The weight decay of each network, R×1, or of each weight where some groups have none; None where all are 0."""
    if not any(given["weight_decay"] for given in settings):
        return None
    each = column([given["weight_decay"] for given in settings], weights)
    if not any("weight_decay" in group for group in groups):
        return each
    shares = [
        torch.full((parameter[0].numel(),), float("weight_decay" not in group))
        for group in groups
        for parameter in group["params"]
    ]
    return each * torch.cat(shares).to(weights)


def gradient_of(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def without_rates(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key not in ("lr", "weight_decay")}


def part(settings: Sequence[dict], whole: StackedOptimizer, rows: slice) -> "Part":
    """The optimizer of consecutive networks, which differ in learning rate and weight decay alone."""
    name = settings[0]["name"]
    if name in LINEAR:
        return Proportional(settings, whole, rows)
    if name in TAKES_TENSORS:
        return TensorRates(settings, whole, rows)
    return Batched(settings, whole, rows)


class Part:
    """The optimizers inside, and their state.

    Args:
        inner: torch's optimizers.
    """

    inner: list[optim.Optimizer]

    def step(self, factor: float) -> None:
        """Updates the weights.

        Args:
            factor: on the learning rate, by the schedule.
        """
        raise NotImplementedError

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.inner]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.inner, states, strict=True):
            optimizer.load_state_dict(state)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


class Proportional(Part):
    """Networks whose updates are proportional to the learning rate: one step at rate 1, times each network's rate.

    The step is made on zeros, which become the update: on the weights it would be rounded to their precision.
    """

    def __init__(self, settings: Sequence[dict], whole: StackedOptimizer, rows: slice) -> None:
        self.weights, self.gradients = whole.weights[rows], whole.gradients[rows]
        self.rates = column([given["lr"] for given in settings], self.weights)
        decaying = any(given["weight_decay"] for given in settings)
        self.decays = whole.decays[rows] if decaying and whole.decays is not None else None
        self.decoupled = settings[0]["name"] in DECOUPLED or settings[0].get("decoupled_weight_decay", False)
        self.update = nn.Parameter(torch.zeros_like(self.weights))
        self.update.grad = self.gradients
        self.inner = [build(settings[0] | {"lr": 1.0, "weight_decay": 0.0}, [self.update])]

    def step(self, factor: float) -> None:
        if self.decays is not None:
            if self.decoupled:
                self.weights.mul_(1 - factor * self.rates * self.decays)
            else:
                self.gradients.addcmul_(self.decays, self.weights)
        [inner] = self.inner
        inner.param_groups[0]["lr"] = factor
        self.update.zero_()
        inner.step()
        self.weights.addcmul_(self.rates, self.update)


class TensorRates(Part):
    """Networks whose optimizer takes a tensor of learning rates, see `elementwise.Elementwise`."""

    def __init__(self, settings: Sequence[dict], whole: StackedOptimizer, rows: slice) -> None:
        rates = [given["lr"] for given in settings]
        self.rates, self.least = column(rates, whole.weights), min(rates)
        parameter = nn.Parameter(whole.weights[rows])
        parameter.grad = whole.gradients[rows]
        self.inner = [build(settings[0], [parameter])]
        if whole.decays is not None and any(given["weight_decay"] for given in settings):
            self.inner[0].param_groups[0]["weight_decay"] = whole.decays[rows]

    def load_state_dict(self, states: list[dict]) -> None:
        super().load_state_dict(states)
        [group] = self.inner[0].param_groups  # of which torch moves no tensor to the device, unlike state
        group |= {key: value.to(self.rates.device) for key, value in group.items() if isinstance(value, Tensor)}

    def step(self, factor: float) -> None:
        if self.least * factor < LEAST:  # the optimizer takes no such rate
            return
        [inner] = self.inner
        inner.param_groups[0]["lr"] = self.rates * factor
        inner.step()


class Batched(Part):
    """Networks whose optimizer has a version for stacked networks, see `stacked_torch.Stacked`."""

    inner: list[Stacked]  # type: ignore[assignment]

    def __init__(self, settings: Sequence[dict], whole: StackedOptimizer, rows: slice) -> None:
        kind = STACKED[settings[0]["name"]]
        if kind.ELEMENTWISE and len(whole.groups) == 1:
            parameter = nn.Parameter(whole.weights[rows])
            parameter.grad = whole.gradients[rows]
            groups = [{"params": [parameter]}]
        else:
            groups, start = [], 0
            for group in whole.groups:
                own = []
                for stacked in group["params"]:
                    share = slice(start, start + stacked[0].numel())
                    own.append(nn.Parameter(whole.weights[rows, share].unflatten(1, stacked.shape[1:])))
                    own[-1].grad = whole.gradients[rows, share].unflatten(1, stacked.shape[1:])
                    start = share.stop
                groups.append(group | {"params": own})
        self.inner = [kind(groups, settings)]

    def step(self, factor: float) -> None:
        [inner] = self.inner
        inner.factor = factor
        inner.step()
