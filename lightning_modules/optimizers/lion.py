"""Lion."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_modules.optimizers.elementwise import Elementwise, Tensors, add_scaled


class Lion(Elementwise):
    """Evolved sign momentum: every weight moves by the learning rate η, in the direction of a momentum m of its
    gradients g:

        w ← w - η·(sign(β₁·m + (1 - β₁)·g) + λ·w)
        m ← β₂·m + (1 - β₂)·g

    The weight decay λ is decoupled. Compared with AdamW the learning rate should be 3 to 10 times smaller, and the
    weight decay as much larger.

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.

    Args:
        params, lr: see `Elementwise`.
        betas: β₁ and β₂, from 0 and below 1.
        weight_decay: λ, from 0.

    Raises:
        ValueError: a number is out of its range.
    """

    STATE = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay)

    DECOUPLED = True

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        [moments] = states
        first, second = group["betas"]
        directions = torch._foreach_lerp(moments, gradients, 1 - first)
        torch._foreach_sign_(directions)
        decay = group["weight_decay"]
        if isinstance(decay, Tensor) or decay:
            add_scaled(directions, parameters, decay)
        add_scaled(parameters, directions, -group["lr"])
        torch._foreach_lerp_(moments, gradients, 1 - second)
