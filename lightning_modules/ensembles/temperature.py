"""Temperature scaling: one number for each network, by which its logits are divided before they are combined."""

import torch
from torch import Tensor

# Temperatures are sought between these. One that is right about every image would have temperature 0.
LEAST, MOST = 0.05, 20.0
FLOOR = -1e4  # what a log-probability of minus infinity counts as
STEPS = 60  # of bisection, at most: Newton's method takes about five


def scaled(log_probabilities: Tensor, temperatures: Tensor) -> Tensor:
    """Log-probabilities, networks × images × classes, of logits that are divided by each network's temperature."""
    return (log_probabilities.clamp_min(FLOOR) / temperatures[:, None, None]).log_softmax(2)


def fit_temperatures(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The temperatures at which the networks' negative log-likelihoods are least, each network's by itself.

    The likelihood is convex in 1 / temperature; where Newton's method would leave what is known to hold the optimum,
    that is halved.

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.

    Returns:
        One temperature per network, float32, LEAST to MOST; NaN if one of a network's log-probabilities is NaN.
    """
    return torch.tensor([fit_temperature(one, labels) for one in log_probabilities])


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """A single network's, of log-probabilities images × classes."""
    if log_probabilities.isnan().any():
        return torch.nan
    logits = log_probabilities.double().clamp_min(FLOOR)
    right = logits[torch.arange(len(labels)), labels]
    low, high, inverse = 1 / MOST, 1 / LEAST, 1.0
    for _ in range(STEPS):
        probabilities = (logits * inverse).softmax(1)
        mean = (probabilities * logits).sum(1)
        slope = (mean - right).mean().item()
        curvature = ((probabilities * logits.square()).sum(1) - mean.square()).mean().item()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        before = inverse
        inverse = inverse - slope / curvature if curvature > 0 else high
        if not low < inverse < high:
            inverse = (low + high) / 2
        if abs(inverse - before) < 1e-7 * inverse:
            break
    return 1 / inverse
