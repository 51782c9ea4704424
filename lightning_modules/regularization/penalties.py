"""l1 and l2: penalties on large weights, as gradients."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.regularization.parameters import beside, of_networks


class Penalties(nn.Module):
    """Adds the gradients of l1 · Σ|w| + l2 · Σw², over a network's weights, to those of the loss.

    The penalty is part of what training minimises and not of the loss that is reported, which can be compared with that
    of other recipes and of validation. |w| has a gradient of 0 at 0. An optimizer that scales gradients scales the
    penalty's too, which tells l2 from the decoupled weight decay of adamw (Loshchilov and Hutter, Decoupled Weight
    Decay Regularization, 2019); to sgd, a weight_decay of twice l2 is the same.

    Sources: Hoerl and Kennard, Ridge Regression, 1970; Tibshirani, Regression Shrinkage and Selection via the Lasso,
    1996.

    Args:
        l1, l2: one per network, 0 or more.
        stacked: whether weights carry a first dimension for the networks.
    """

    l1: Tensor
    slope: Tensor

    def __init__(self, l1: Sequence[float], l2: Sequence[float], *, stacked: bool) -> None:
        super().__init__()
        self.register_buffer("l1", of_networks(l1, stacked=stacked), persistent=False)
        self.register_buffer("slope", of_networks([2 * factor for factor in l2], stacked=stacked), persistent=False)
        self.absolute, self.squared = any(l1), any(l2)

    @torch.no_grad()
    def forward(self, weights: Iterable[Tensor]) -> None:
        """Adds to the gradients of the weights that have one."""
        for weight in weights:
            if weight.grad is None:
                continue
            if self.absolute:
                weight.grad.addcmul_(weight.sign(), beside(self.l1, weight))
            if self.squared:
                weight.grad.addcmul_(weight, beside(self.slope, weight))
