"""Proximal gradient descent."""

from collections.abc import Iterable

from lightning_modules.optimizers.elementwise import Elementwise, Tensors, add_scaled, divide, shrink


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
        self, params: Iterable, lr: float, l1: float = 0.0, l2: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, l1=l1, l2=l2, weight_decay=weight_decay)

    def update(self, group: dict, parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
        rate = group["lr"]
        add_scaled(parameters, gradients, -rate)
        if group["l1"]:
            shrink(parameters, rate * group["l1"], into=parameters)
        if group["l2"]:
            divide(parameters, 1 + rate * group["l2"])
