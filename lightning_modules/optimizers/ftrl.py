"""Follow the regularized leader, proximal."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_modules.optimizers.elementwise import LEAST, Elementwise, Tensors, adagrad, divide, shrink


class Ftrl(Elementwise):
    """FTRL-Proximal. After step t the weight w minimises

        Σ gₛ·w + Σ σₛ/2·(w - wₛ)² + λ₁·|w| + λ₂·w²,   sums over all steps s up to t,

    where wₛ is the weight in step s and gₛ its gradient, and the strengths σ sum up to the inverse of the weight's own
    rate: Σ σₛ = nₜ^(-p)/ηₜ with the learning rate η, the power p and n, the sum of the squared gradients. As the
    learning rate may follow a schedule, σₜ is nₜ^(-p)/ηₜ - nₜ₋₁^(-p)/ηₜ₋₁. L1 makes weights exactly zero, and keeps the
    sum of their gradients in mind. Without L1 and L2, with p = -0.5 and an initial n of 0 it is Adagrad.

    An initial n above 0 counts like a step at weight 0: it draws every weight there, and what a deep network's initial
    weights have of use is lost within some steps. TensorFlow's is 0.1.

    Source: McMahan et al., Ad Click Prediction: a View from the Trenches, 2013; the power is TensorFlow's. At a
    constant learning rate it computes what TensorFlow's FtrlOptimizer and Keras's Ftrl do. (Theirs takes Σ σₛ for
    nₜ^(-p)/ηₜ even where the learning rate has changed: a schedule that ends at 0 takes all their weights to 0.)

    Args:
        params, lr, weight_decay: see `Elementwise`.
        lr_power: p, at most 0.
        initial_accumulator_value: of n.
        l1, l2: λ₁ and λ₂, from 0. (λ₂ weighs w², while those of the proximal optimizers weigh w²/2.)

    Raises:
        ValueError: a number is out of its range.
    """

    # `pull` is what holds the weight back from Σ gₛ·w + Σ σₛ/2·(w - wₛ)² alone: l1 in the direction of the weight, and
    # less at a weight of 0.
    STATE = ("sum", "pull")

    def __init__(
        self,
        params: Iterable,
        lr: float,
        lr_power: float = -0.5,
        initial_accumulator_value: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, lr_power=lr_power, initial_accumulator_value=initial_accumulator_value, l1=l1, l2=l2,
            weight_decay=weight_decay,
        )  # fmt: skip

    def begin(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        first = group["initial_accumulator_value"]
        strength = first ** -group["lr_power"] / group["lr"]
        pull = -(strength + 2 * group["l2"]) * parameter
        return {"sum": torch.full_like(parameter, max(first, LEAST)), "pull": pull}

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        squares, pulls = states
        power, l1, l2 = group["lr_power"], group["l1"], group["l2"]
        root = power == -0.5
        if root and not (l1 or l2 or group["initial_accumulator_value"]):
            adagrad(parameters, gradients, squares, group["lr"])  # no pull ever
            return
        torch._foreach_addcmul_(squares, gradients, gradients)
        curvatures = torch._foreach_sqrt(squares) if root else torch._foreach_pow(squares, -power)
        divide(curvatures, group["lr"])
        if l2:
            torch._foreach_add_(curvatures, 2 * l2)
        # The optimum of all but L1 is `leaders` / curvatures.
        leaders = pulls
        torch._foreach_sub_(leaders, gradients)
        torch._foreach_addcmul_(leaders, curvatures, parameters)
        shrink(leaders, l1, into=parameters)
        torch._foreach_div_(parameters, curvatures)
        for leader in leaders:
            leader.clamp_(-l1, l1)  # becomes the new pull
