"""Proximal gradient descent."""

import math
from collections.abc import Iterable

import torch

from lightning_modules.optimizers.elementwise import Elementwise, Tensors, add_scaled, check, shrink


class ProximalSGD(Elementwise):
    """Stochastic gradient descent, after each step of which comes the proximal step of λ₁·|w| + λ₂/2·w²:

        w ← w - η·g
        w ← sign(w) · max(|w| - η·λ₁, 0) / (1 + η·λ₂)

    with the learning rate η and the gradient g of the loss. L1 makes weights exactly zero.

    Source: Duchi and Singer, Efficient Online and Batch Learning using Forward Backward Splitting, 2009; as
    TensorFlow's ProximalGradientDescentOptimizer computes it.

    Args:
        params, lr, weight_decay: see `Elementwise`.
        l1, l2: λ₁ and λ₂, from 0.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self, params: Iterable, lr: float = 0.01, l1: float = 0.0, l2: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        check("l1", l1, 0 <= l1 < math.inf, "a number from 0")
        check("l2", l2, 0 <= l2 < math.inf, "a number from 0")
        super().__init__(params, {"lr": lr, "l1": l1, "l2": l2, "weight_decay": weight_decay})

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        rate = group["lr"]
        add_scaled(parameters, gradients, -rate)
        if group["l1"]:
            shrink(parameters, rate * group["l1"], into=parameters)
        if group["l2"]:
            divisor = 1 + rate * group["l2"]
            if isinstance(divisor, torch.Tensor):
                torch._foreach_div_(parameters, [divisor] * len(parameters))
            else:
                torch._foreach_div_(parameters, divisor)
