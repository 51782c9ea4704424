"""The super learner: the convex combination of networks whose probabilities are nearest to the truth."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def fit_weights(log_probabilities: "Tensor", labels: "Tensor") -> "Tensor":
    """The weights of the networks' mixture that minimise its Brier score, by non-negative least squares.

    Source: van der Laan, Polley and Hubbard, Super Learner, 2007, with squared error over one-hot targets.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.

    Returns:
        One weight per network, float32, not negative, sum 1; all NaN if a log-probability is NaN.
    """
    import torch
    from scipy.optimize import nnls

    count = len(log_probabilities)
    if log_probabilities.isnan().any():
        return torch.full((count,), torch.nan)
    # What the networks are wrong by, in pairs: all that the squared error of a mixture depends on.
    errors = log_probabilities.exp()
    errors[:, torch.arange(len(labels)), labels] -= 1
    flat = errors.flatten(1)
    products = (flat @ flat.T).double().numpy()
    values, vectors = np.linalg.eigh(products)
    root = vectors.T * np.sqrt(values.clip(0))[:, None]
    # Free weights u = s · w with sum s: for each w the best s makes the target smaller where ‖errors · w‖² is, so that
    # the best u has the best w, whatever the scale of the row that asks for the sum.
    scale = np.sqrt(products.diagonal().mean()) or 1.0
    free, _ = nnls(np.vstack([root, np.full(count, scale)]), np.append(np.zeros(count), scale))
    return torch.tensor(free / free.sum(), dtype=torch.float32)
