"""Stacking: a classifier of what the networks say of an image."""

import torch
from torch import Tensor

FLOOR = -20.0  # what a log-probability counts as at least: a certain network's would outweigh all others'


def features(log_probabilities: Tensor) -> Tensor:
    """Images × (networks · classes), of log-probabilities networks × images × classes."""
    return log_probabilities.clamp_min(FLOOR).transpose(0, 1).flatten(1)


def stacking(log_probabilities: Tensor, **layers: Tensor) -> Tensor:
    """The log-probabilities of fully connected layers with ReLU between them, on the networks' log-probabilities.

    Source: Wolpert, Stacked Generalization, 1992.

    Args:
        layers: weight_0 (inputs × outputs), bias_0, weight_1, ...
    """
    values = features(log_probabilities)
    for number in range(len(layers) // 2):
        values = torch.relu(values) if number else values
        values = values @ layers[f"weight_{number}"] + layers[f"bias_{number}"]
    return values.log_softmax(1)
