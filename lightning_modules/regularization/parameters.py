"""Which parameters are weights, and numbers that each of several stacked networks has of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def of_networks(values: Sequence[float], *, stacked: bool) -> Tensor:
    """One value per stacked network, or the single one of a network alone, without dimensions."""
    return torch.tensor(values if stacked else values[0], dtype=torch.float32)


def beside(values: Tensor, parameter: Tensor) -> Tensor:
    """The values, so that they multiply the stacked parameters of their networks."""
    return values.view(-1, *[1] * (parameter.dim() - 1)) if values.dim() else values


def is_weight(parameter: Tensor, *, stacked: bool = False) -> bool:
    """Whether a parameter is a matrix or filters. Biases, and the scales and shifts of normalisation, are vectors.

    Args:
        stacked: whether it carries a first dimension for the networks.
    """
    return parameter.dim() - stacked > 1


def weights(network: nn.Module, *, stacked: bool = False) -> list[nn.Parameter]:
    """The parameters of a network, or of stacked ones, that are weights."""
    return [parameter for parameter in network.parameters() if is_weight(parameter, stacked=stacked)]
