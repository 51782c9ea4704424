"""torch's ASGD, Rprop and Adafactor for stacked networks, each of which has a learning rate and a weight decay of its
own: their updates are not proportional to the learning rate, and torch's own take one rate for all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules import names


class Stacked(Optimizer):
    """An optimizer of R networks, which does to each what the one of the same name does to a network alone, up to
    rounding.

    Args:
        groups: of stacked parameters, R×..., which all have gradients, in the order of the network's layers. A group
            may have a `weight_decay` of its own, 0.
        settings: the `optimizer` of each network's recipe, which differ in learning rate and weight decay alone.

    Attributes:
        factor: on all learning rates, by the schedule.
    """

    # Whether the update of a weight depends on no other weight: then a network's may lie in one row.
    ELEMENTWISE = True

    def __init__(self, groups: Sequence[dict], settings: Sequence[dict]) -> None:
        given = names.completed(settings[0], names.OPTIMIZERS)
        own = {key: value for key, value in given.items() if key not in ("name", "lr", "weight_decay")}
        super().__init__([dict(group) for group in groups], own)
        self.factor = 1.0
        self.rates: dict[nn.Parameter, Tensor] = {}
        self.decays: dict[nn.Parameter, Tensor] = {}  # of parameters that decay in one network or more
        for group in self.param_groups:
            for parameter in group["params"]:
                self.rates[parameter] = column([given["lr"] for given in settings], parameter)
                if "weight_decay" not in group and any(given["weight_decay"] for given in settings):
                    self.decays[parameter] = column([given["weight_decay"] for given in settings], parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        for group in self.param_groups:
            for parameter in group["params"]:
                self.update(parameter, parameter.grad, group, self.rates[parameter] * self.factor)

    def update(self, parameter: nn.Parameter, gradient: Tensor, group: dict, rates: Tensor) -> None:
        """Updates a parameter and its state.

        Args:
            rates: R×1×..., the learning rates of this step.
        """
        raise NotImplementedError


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """A number for each network, R×1×..., that broadcasts against a stacked parameter."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))


def lengths(tensor: Tensor) -> Tensor:
    """The Euclidean norm of each network's share, R×1×..."""
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)


class StackedASGD(Stacked):
    """torch.optim.ASGD, which trains by SGD with a decay of the weights and of the learning rate. The average of the
    weights, which it keeps beside them, is not kept: nothing here uses it."""

    def update(self, parameter: nn.Parameter, gradient: Tensor, group: dict, rates: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "eta": rates}
        state["step"] += 1
        if parameter in self.decays:
            gradient = torch.addcmul(gradient, self.decays[parameter], parameter)
        parameter.mul_(1 - group["lambd"] * state["eta"]).addcmul_(gradient, state["eta"], value=-1)
        state["eta"] = rates / (1 + group["lambd"] * rates * state["step"]) ** group["alpha"]


class StackedRprop(Stacked):
    """torch.optim.Rprop: the length of a weight's step grows while its gradient keeps its sign."""

    def update(self, parameter: nn.Parameter, gradient: Tensor, group: dict, rates: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"before": torch.zeros_like(parameter), "length": torch.zeros_like(parameter) + rates}
        agreement = gradient * state["before"]
        turned = agreement < 0
        shrinks, grows = group["etas"]
        state["length"].mul_(torch.where(agreement > 0, grows, torch.where(turned, shrinks, 1.0)))
        state["length"].clamp_(*group["step_sizes"])
        torch.mul(gradient, ~turned, out=state["before"])
        parameter.addcmul_(state["before"].sign(), state["length"], value=-1)


class StackedAdafactor(Stacked):
    """torch.optim.Adafactor: of the squared gradients of a matrix it keeps means by row and by column."""

    ELEMENTWISE = False

    def update(self, parameter: nn.Parameter, gradient: Tensor, group: dict, rates: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            if parameter.dim() > 2:
                state["rows"] = torch.zeros_like(parameter[..., :1])
                state["columns"] = torch.zeros_like(parameter[..., :1, :])
            else:
                state["squares"] = torch.zeros_like(parameter)
        state["step"] += 1
        share = state["step"] ** group["beta2_decay"]
        least, least_scale = group["eps"]
        least = torch.finfo(parameter.dtype).eps if least is None else least
        root = parameter[0].numel() ** 0.5
        scale = (lengths(parameter) / root).clamp_min_(least_scale) * rates.clamp_max(state["step"] ** -0.5)
        if parameter in self.decays:
            parameter.mul_(1 - rates * self.decays[parameter])
        if parameter.dim() > 2:
            state["rows"].lerp_(mean_square(gradient, -1), share)
            state["columns"].lerp_(mean_square(gradient, -2), share)
            squares = state["rows"] @ state["columns"]
            squares.div_(state["rows"].mean(-2, keepdim=True).clamp_min_(least))
        else:
            state["squares"].lerp_(gradient.square(), share)
            squares = state["squares"].clone()
        update = squares.clamp_min_(least * least).rsqrt_().mul_(gradient)
        clipping = (lengths(update) / (root * group["d"])).clamp_min_(1.0)
        parameter.addcmul_(update, scale / clipping, value=-1)


def mean_square(tensor: Tensor, dimension: int) -> Tensor:
    """Along a dimension, which is kept."""
    return torch.linalg.vector_norm(tensor, dim=dimension, keepdim=True).square_().div_(tensor.shape[dimension])
