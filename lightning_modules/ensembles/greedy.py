"""Networks that are chosen one by one, each as the one that helps the mixture of those before it most."""

import torch
from torch import Tensor


def fit_weights(log_probabilities: Tensor, labels: Tensor, rounds: int) -> Tensor:
    """The networks' shares among those that were chosen, with replacement, by the mixture's negative log-likelihood.

    Source: Caruana, Niculescu-Mizil, Crew and Ksikes, Ensemble Selection from Libraries of Models, 2004. The mixture of
    the best round is taken, of equal ones the earliest.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.
        rounds: the number of choices, at least 1.

    Returns:
        One weight per network, float32, not negative, sum 1; all NaN if the probability of a label is NaN.
    """
    likelihoods = log_probabilities[:, torch.arange(len(labels)), labels].double().exp()
    if likelihoods.isnan().any():
        return torch.full((len(likelihoods),), torch.nan)
    chosen = likelihoods.new_zeros(len(likelihoods))
    mixed = torch.zeros_like(likelihoods[0])
    best, weights = torch.inf, chosen
    for size in range(1, rounds + 1):
        tried = ((mixed + likelihoods) / size).clamp_min(torch.finfo(mixed.dtype).tiny)
        nll = -tried.log_().mean(1)
        number = int(nll.argmin())
        chosen[number] += 1
        mixed += likelihoods[number]
        if nll[number] < best:
            best, weights = nll[number].item(), chosen / size
    return weights.float()
