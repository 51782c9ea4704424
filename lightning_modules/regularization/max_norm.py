"""A limit on the weights that lead to each unit."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.regularization.parameters import beside, of_networks


class MaxNorm(nn.Module):
    """After a step, scales the incoming weights of each unit or filter down to a norm of at most `limit`. Units of the
    last layer are units too; biases do not count.

    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014, section 5.1.

    Args:
        limit: one per network, above 0; None for no limit.
        stacked: whether weights carry a first dimension for the networks.
    """

    limit: Tensor

    def __init__(self, limit: Sequence[float | None], *, stacked: bool) -> None:
        super().__init__()
        numbers = [math.inf if norm is None else norm for norm in limit]
        self.register_buffer("limit", of_networks(numbers, stacked=stacked), persistent=False)

    @torch.no_grad()
    def forward(self, weights: Iterable[Tensor]) -> None:
        """Scales the weights, outputs × inputs × ..., in place."""
        for weight in weights:
            incoming = tuple(range(1 + self.limit.dim(), weight.dim()))
            norms = torch.linalg.vector_norm(weight, dim=incoming, keepdim=True)
            weight.mul_((beside(self.limit, weight) / norms).clamp_max(1.0))
