"""Muon: momentum with orthogonalised updates, for the filters and weight matrices of hidden layers.

Source: Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, Muon: An optimizer for hidden layers in neural
networks, 2024 (kellerjordan.github.io/posts/muon), with the weight normalisation and the hyper-parameters of
airbench94_muon. torch.optim.Muon takes only matrices, one at a time, and needs a second optimizer for the rest.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Coefficients of the quintic a·x + b·x³ + c·x⁵ that is applied to the singular values repeatedly. It is steepest at
# zero: small values soon get between about 0.7 and 1.2, but never converge to one.
QUINTIC = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


def orthogonal(matrices: Tensor, steps: int) -> Tensor:
    """Approximates the nearest semi-orthogonal matrix of each, U·Vᵀ of its singular value decomposition U·S·Vᵀ, by
    Newton-Schulz iteration in the precision of `matrices`.

    Args:
        matrices: ... × rows × columns.
        steps: of the iteration.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    result = matrices.mT if tall else matrices
    # After this no singular value is above 1: none is greater than the Frobenius norm.
    norm = torch.linalg.matrix_norm(result, keepdim=True) + EPSILON
    result = result / norm.to(result.dtype)  # autocast makes the norm float32 on a GPU
    for _ in range(steps):
        gram = result @ result.mT
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result.mT if tall else result


class Muon(Optimizer):
    """Muon for all matrices and filters except the last, which gives the logits. SGD with Nesterov momentum trains that
    one and the biases.

    Args:
        params: parameters in the order of the network's layers, or groups of them.
        lr: Muon's learning rate: the length of each singular direction of an update.
        weight_decay: share by which a step at the full learning rate shrinks the weights: those that SGD trains (apart
            from momentum), and with `normalize` off also Muon's. It does not scale with `lr`, `sgd_lr` or `bias_lr`.
        momentum: Muon's.
        sgd_lr, bias_lr: SGD's learning rates, for the last layer's weight and for biases.
        sgd_momentum: SGD's.
        steps: of the Newton-Schulz iteration.
        normalize: whether each matrix is scaled before its step so that its rows have a mean square length of one,
            which a following batch normalisation allows.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.6,
        sgd_lr: float = 0.02,
        bias_lr: float = 0.02,
        sgd_momentum: float = 0.85,
        steps: int = 3,
        normalize: bool = True,
    ) -> None:
        for name, rate in (("sgd_lr", sgd_lr), ("bias_lr", bias_lr)):
            if not rate > 0:
                raise ValueError(f"{name} is {rate}, but has to be greater than 0")
        for name, share in (("momentum", momentum), ("sgd_momentum", sgd_momentum)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}, but has to be at least 0 and less than 1")
        if steps != int(steps) or steps < 1:
            raise ValueError(f"steps is {steps}, but has to be a positive whole number")
        given = list(params)
        groups: list[dict] = given if isinstance(given[0], dict) else [{"params": given}]
        last = [parameter for group in groups for parameter in group["params"] if parameter.ndim > 1][-1:]
        shared = {"steps": int(steps), "normalize": normalize}
        split: list[dict] = []
        for group in groups:
            inside: list[nn.Parameter] = []
            head: list[nn.Parameter] = []
            biases: list[nn.Parameter] = []
            for parameter in group["params"]:
                kind = biases if parameter.ndim < 2 else head if parameter is last[0] else inside
                kind.append(parameter)
            for members, muon, rate, own in (
                (inside, True, lr, momentum),
                (head, False, sgd_lr, sgd_momentum),
                (biases, False, bias_lr, sgd_momentum),
            ):
                if members:
                    decay = group.get("weight_decay", weight_decay) / rate
                    settings = {"lr": rate, "momentum": own, "weight_decay": decay, "muon": muon}
                    split.append(group | settings | {"params": members})
        super().__init__(split, shared)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        for group in self.param_groups:
            (self.step_muon if group["muon"] else self.step_sgd)(group)

    def moments(self, group: dict) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The group's parameters that have a gradient, their gradients, and their momentum buffers."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum"] for parameter in parameters]
        return parameters, [parameter.grad for parameter in parameters], buffers

    def step_sgd(self, group: dict) -> None:
        parameters, gradients, buffers = self.moments(group)
        if not parameters:
            return
        updates = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(updates, buffers, alpha=group["momentum"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def step_muon(self, group: dict) -> None:
        parameters, gradients, buffers = self.moments(group)
        if not parameters:
            return
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        updates = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        if group["normalize"]:
            norms = torch._foreach_norm(parameters)
            torch._foreach_div_(norms, [len(parameter) ** 0.5 for parameter in parameters])
            torch._foreach_div_(parameters, torch._foreach_add(norms, EPSILON))
        else:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # Weights of one shape are orthogonalised in one batched product.
        alike = defaultdict(list)
        for parameter, update in zip(parameters, updates):
            alike[parameter.shape].append((parameter, update))
        for pairs in alike.values():
            matrices = torch.stack([update.flatten(1) for _, update in pairs])
            kind = matrices.device.type
            if torch.is_autocast_enabled(kind):  # in mixed precision, like the network's own products
                matrices = matrices.to(torch.get_autocast_dtype(kind))
            directions = orthogonal(matrices, group["steps"])
            for (parameter, _), direction in zip(pairs, directions):
                parameter.add_(direction.reshape(parameter.shape), alpha=-group["lr"])
