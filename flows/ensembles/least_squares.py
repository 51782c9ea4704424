"""The weights of networks whose mean is nearest to the truth."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def fit_weights(predictions: "Tensor", truth: "Tensor") -> "Tensor":
    """The weights, not negative and of sum 1, whose weighted mean has the least squared error, by scipy's non-negative
    least squares.

    Source: Breiman, Stacked Regressions, 1996; of probabilities, whose error is then the Brier score, it is the super
    learner of van der Laan, Polley and Hubbard, Super Learner, 2007.

    Args:
        predictions: networks × numbers.
        truth: numbers.

    Returns:
        One weight per network, float32; all NaN if a prediction is NaN.
    """
    import torch
    from scipy.optimize import nnls

    count = len(predictions)
    # As weights sum to 1, the error of a mean is the mean of the errors: it depends on their products alone.
    errors = predictions - truth
    products = (errors @ errors.T).double().numpy()
    if np.isnan(products).any():
        return torch.full((count,), torch.nan)
    values, vectors = np.linalg.eigh(products)
    root = vectors.T * np.sqrt(values.clip(0))[:, None]
    # Of free weights u = s · w with sum s, each w has a best s, at which the target is less where ‖errors · w‖² is: the
    # best u has the best w, whatever the scale of the row that asks for a sum of 1.
    scale = np.sqrt(products.diagonal().mean()) or 1.0
    free, _ = nnls(np.vstack([root, np.full(count, scale)]), np.append(np.zeros(count), scale))
    return torch.tensor(free / free.sum(), dtype=torch.float32)
