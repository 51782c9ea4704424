"""Limits on gradients."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.regularization.parameters import beside, of_networks


class Clipping(nn.Module):
    """Clips each number of a network's gradient to ±`value`, and then scales the whole gradient down where its norm,
    over all parameters, is above `norm`.

    Source: Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks, 2013.

    Args:
        norm, value: one per network, above 0; None for no limit.
        stacked: whether parameters carry a first dimension for the networks.
    """

    norm: Tensor
    value: Tensor

    def __init__(self, norm: Sequence[float | None], value: Sequence[float | None], *, stacked: bool) -> None:
        super().__init__()
        for name, limits in (("norm", norm), ("value", value)):
            numbers = [math.inf if limit is None else limit for limit in limits]
            self.register_buffer(name, of_networks(numbers, stacked=stacked), persistent=False)
        self.by_norm = any(limit is not None for limit in norm)
        self.by_value = any(limit is not None for limit in value)

    @torch.no_grad()
    def forward(self, parameters: Iterable[Tensor]) -> None:
        """Clips the gradients of the parameters that have one."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.by_value:
            for gradient in gradients:
                limit = beside(self.value, gradient)
                gradient.clamp_(-limit, limit)
        if not self.by_norm:
            return
        first = self.norm.dim()  # of a gradient's dimensions that is not over the networks
        norms = [torch.linalg.vector_norm(each, dim=tuple(range(first, each.dim()))) for each in gradients]
        whole = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        factor = (self.norm / whole).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(beside(factor, gradient))
