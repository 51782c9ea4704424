"""RMSProp as TensorFlow has it."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_modules.optimizers.elementwise import Elementwise, Tensors, adagrad


class RMSpropTF(Elementwise):
    """RMSProp with epsilon inside the root, and a mean square that starts at 1, so that the first steps are small:

        m ← α·m + (1 - α)·g²
        v ← μ·v + η·g/√(m + ε)
        w ← w - v

    with the learning rate η, the momentum μ and the gradient g of the loss.

    Source: Tieleman and Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012; as TensorFlow's
    RMSPropOptimizer computes it.

    Args:
        params, lr, weight_decay: see `Elementwise`.
        alpha: α, from 0 and below 1.
        eps: ε, from 0.
        momentum: μ, from 0 and below 1.

    Raises:
        ValueError: a number is out of its range.
    """

    STATE = ("sum", "momentum_buffer")

    def __init__(
        self,
        params: Iterable,
        lr: float,
        alpha: float = 0.9,
        eps: float = 1e-10,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay)

    # The state `sum` is (m + ε)/(1 - α), to which a step adds g²: so Adagrad's fused kernel does the rest of the step.
    def begin(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        start = (1 + group["eps"]) / (1 - group["alpha"])
        return {"sum": torch.full_like(parameter, start), "momentum_buffer": torch.zeros_like(parameter)}

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        squares, moments = states
        alpha, momentum = group["alpha"], group["momentum"]
        torch._foreach_mul_(squares, alpha)
        torch._foreach_add_(squares, group["eps"])
        rate = group["lr"] / math.sqrt(1 - alpha)
        if not momentum:
            adagrad(parameters, gradients, squares, rate)
            return
        torch._foreach_mul_(moments, momentum)
        adagrad(moments, gradients, squares, rate)  # -v
        torch._foreach_add_(parameters, moments)
