"""Muon for stacked networks, each of which has a learning rate and a weight decay of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.optimizers.muon import EPSILON, orthogonal
from lightning_modules.optimizers.stacked_torch import Stacked, lengths


class StackedMuon(Stacked):
    """See `muon.Muon`: the weights of all networks in a layer are orthogonalised in one batched product."""

    ELEMENTWISE = False

    def __init__(self, groups: Sequence[dict], settings: Sequence[dict]) -> None:
        super().__init__(groups, settings)
        matrices = [parameter for group in groups for parameter in group["params"] if parameter.dim() > 2]
        self.head = matrices[-1] if matrices else None

    def update(self, parameter: nn.Parameter, gradient: Tensor, group: dict, rates: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        if parameter.dim() > 2 and parameter is not self.head:
            self.update_inside(parameter, gradient, group, rates)
            return
        rate, momentum = group["sgd_lr" if parameter is self.head else "bias_lr"], group["sgd_momentum"]
        if parameter in self.decays:  # the share of a step at the full rate
            gradient = torch.addcmul(gradient, self.decays[parameter], parameter, value=1 / rate)
        state["momentum"].mul_(momentum).add_(gradient)
        parameter.add_(torch.add(gradient, state["momentum"], alpha=momentum), alpha=-rate * self.factor)

    def update_inside(self, parameter: nn.Parameter, gradient: Tensor, group: dict, rates: Tensor) -> None:
        buffer, momentum = self.state[parameter]["momentum"], group["momentum"]
        buffer.mul_(momentum).add_(gradient)
        matrices = torch.add(gradient, buffer, alpha=momentum).flatten(2)
        if group["normalize"]:
            parameter.div_(lengths(parameter) / parameter.shape[1] ** 0.5 + EPSILON)
        elif parameter in self.decays:
            parameter.mul_(1 - self.factor * self.decays[parameter])
        kind = matrices.device.type
        if torch.is_autocast_enabled(kind):  # in mixed precision, like the network's own products
            matrices = matrices.to(torch.get_autocast_dtype(kind))
        directions = orthogonal(matrices, int(group["steps"])).view(parameter.shape).to(parameter.dtype)
        parameter.addcmul_(directions, rates, value=-1)
