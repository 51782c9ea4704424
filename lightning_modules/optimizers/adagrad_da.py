"""Adagrad by dual averaging."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_modules.optimizers.elementwise import LEAST, Elementwise, Tensors, add, add_scaled, shrink


class AdagradDA(Elementwise):
    """Adagrad by (primal-)dual averaging. After step t the weight w minimises

        Σ ηₛ·gₛ·w + √n/2·(w - a)² + Σ ηₛ·(λ₁·|w| + λ₂/2·w²),   sums over all steps s up to t,

    with the gradients gₛ, the learning rates ηₛ, the sum n of the squared gradients and the anchor a: it is
    w = shrunk(√n·a - Σ ηₛ·gₛ, λ₁·Σ ηₛ) / (√n + λ₂·Σ ηₛ). L1 makes weights exactly zero.

    Source: Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011.
    With the anchor at zero and a constant learning rate it computes what TensorFlow's AdagradDAOptimizer does, which
    forgets all initial weights in the first step: a network with hidden layers cannot learn from there. (TensorFlow's
    multiplies all earlier gradients by the newest learning rate: a schedule that goes to 0 would take every weight back
    to the anchor.)

    Args:
        params, lr, weight_decay: see `Elementwise`.
        initial_accumulator_value: of n; TensorFlow's is 0.1.
        l1, l2: λ₁ and λ₂, from 0.
        anchor: "init", the weights before the first step, or "zero".

    Raises:
        ValueError: a number is out of its range, or the anchor is another.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        initial_accumulator_value: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        anchor: str = "init",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, initial_accumulator_value=initial_accumulator_value, l1=l1, l2=l2, anchor=anchor,
            weight_decay=weight_decay,
        )  # fmt: skip

    # `pull` is -Σ ηₛ·gₛ.
    STATE = ("sum", "pull", "anchor")

    def begin(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        return {
            "sum": torch.full_like(parameter, max(group["initial_accumulator_value"], LEAST)),
            "pull": torch.zeros_like(parameter),
            "anchor": parameter.clone() if group["anchor"] == "init" else torch.zeros_like(parameter),
        }

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        squares, pulls, anchors = states
        group["rates"] = group.get("rates", 0.0) + group["lr"]  # Σ ηₛ
        torch._foreach_addcmul_(squares, gradients, gradients)
        add_scaled(pulls, gradients, -group["lr"])
        roots = torch._foreach_sqrt(squares)
        if not (group["l1"] or group["l2"]):
            for parameter, anchor, pull, root in zip(parameters, anchors, pulls, roots):
                torch.addcdiv(anchor, pull, root, out=parameter)
            return
        for parameter, anchor, pull, root in zip(parameters, anchors, pulls, roots):
            torch.addcmul(pull, root, anchor, out=parameter)
        shrink(parameters, group["l1"] * group["rates"], into=parameters)
        if group["l2"]:
            add(roots, group["l2"] * group["rates"])
        torch._foreach_div_(parameters, roots)
