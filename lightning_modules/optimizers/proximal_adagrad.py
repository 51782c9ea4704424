"""Proximal Adagrad."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_modules.optimizers.elementwise import LEAST, Elementwise, Tensors, adagrad, add, add_scaled, shrink


class ProximalAdagrad(Elementwise):
    """Adagrad, after each step of which comes the proximal step of λ₁·|w| + λ₂/2·w² at each weight's own rate:

        n ← n + g²
        w ← w - η/√n · g
        w ← sign(w) · max(|w| - η/√n · λ₁, 0) / (1 + η/√n · λ₂)

    with the learning rate η and the gradient g of the loss. L1 makes weights exactly zero. Without L1 and L2 it is
    Adagrad.

    Source: Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011
    (composite mirror descent); as TensorFlow's ProximalAdagradOptimizer computes it.

    Args:
        params, lr, weight_decay: see `Elementwise`.
        initial_accumulator_value: of n; TensorFlow's is 0.1.
        l1, l2: λ₁ and λ₂, from 0.

    Raises:
        ValueError: a number is out of its range.
    """

    STATE = ("sum",)

    def __init__(
        self,
        params: Iterable,
        lr: float,
        initial_accumulator_value: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, initial_accumulator_value=initial_accumulator_value, l1=l1, l2=l2, weight_decay=weight_decay
        )

    def begin(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        return {"sum": torch.full_like(parameter, max(group["initial_accumulator_value"], LEAST))}

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        [squares] = states
        if not (group["l1"] or group["l2"]):
            adagrad(parameters, gradients, squares, group["lr"])
            return
        # The same, times √n: the weight is shrunk(√n·w - η·g, η·λ₁) / (√n + η·λ₂).
        rate = group["lr"]
        torch._foreach_addcmul_(squares, gradients, gradients)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_mul_(parameters, roots)
        add_scaled(parameters, gradients, -rate)
        shrink(parameters, rate * group["l1"], into=parameters)
        if group["l2"]:
            add(roots, rate * group["l2"])
        torch._foreach_div_(parameters, roots)
