"""The mixture of networks that is most likely."""

import torch
from torch import Tensor

# Largest gap, in nats, between the mean log-likelihood of the fitted weights and the optimum. Weights are kept in
# single precision, which may add 1e-7.
GAP = 1e-8
MOST_STEPS = 100  # a dozen are enough


def fit_weights(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The weights of the networks' mixture that minimise its negative log-likelihood, a convex problem.

    The mixture is Smyth and Wolpert's, Linearly Combining Density Estimators via Stacking, 1999. Its weights are found
    by a primal-dual interior-point method (Nocedal and Wright, Numerical Optimization, 2006, chapter 19).
    Expectation maximisation would take hundreds of thousands of steps if the networks are alike. The method ends when
    the duality gap, max_k mean(likelihood_k / mixture) - 1, shows that no weights are better by more than GAP.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.

    Returns:
        One weight per network, float32, not negative, sum 1; all NaN if the probability of a label is NaN.
    """
    logs = log_probabilities[:, torch.arange(len(labels)), labels].double()
    count = len(logs)
    if logs.isnan().any():
        return torch.full((count,), torch.nan)
    best = logs.max(0).values
    possible = best > -torch.inf  # an image to whose label all networks give probability 0 says nothing about them
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    if not possible.any():
        return weights.float()
    # Each image's likelihoods are relative to its best network's, which does not change the best weights.
    likelihoods = (logs[:, possible] - best[possible]).exp()
    slack = None
    for _ in range(MOST_STEPS):
        relative = likelihoods / (weights @ likelihoods)
        excess = relative.mean(1) - 1  # mean of the likelihood relative to the mixture's, less 1; at the optimum <= 0
        gap = excess.max()
        if gap < GAP:
            break
        slack = (-excess).clamp_min(0) + gap if slack is None else slack
        aim = 0.1 * (weights @ slack) / count  # for each product of weight and slack
        step = newton(relative, slack / weights, excess + aim / weights)
        slack_step = (aim - slack * step) / weights - slack
        weights = weights + reach(weights, step) * step
        slack = slack + reach(slack, slack_step) * slack_step
        weights = weights / weights.sum()
    return weights.float()


def newton(relative: Tensor, diagonal: Tensor, target: Tensor) -> Tensor:
    """Solves (relative · relativeᵀ / images + diag(diagonal)) x = target for x.

    The system that is solved is networks × networks or, by Woodbury's identity, images × images, whichever is smaller.

    Args:
        relative: networks × images.
        diagonal, target: networks.
    """
    count, images = relative.shape
    if count <= images:
        system = relative @ relative.T / images
        system.diagonal().add_(diagonal)
        return torch.linalg.solve(system, target)
    alone = target / diagonal
    system = relative.T @ (relative / diagonal[:, None])
    system.diagonal().add_(images)
    return alone - relative @ torch.linalg.solve(system, relative.T @ alone) / diagonal


def reach(values: Tensor, step: Tensor) -> Tensor:
    """The largest share of a step, at most 1 and with a margin of 1 %, that keeps positive values positive."""
    return 0.99 / (-step / values).max().clamp_min(0.99)
