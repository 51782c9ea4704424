"""Fits stacking: scikit-learn's logistic regression, or a small network of its, on what the networks say."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MOST_STEPS = {"linear": 1000, "hidden": 200}


def fit_layers(log_probabilities: "Tensor", labels: "Tensor", c: float, hidden: int) -> dict[str, "Tensor"]:
    """The layers of `ensembles.stacking`.

    For each class an image is added of which the networks say nothing: the answer to that is no class in particular,
    and a class of which no image is there is defined too.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.
        c: inverse of the strength of the L2 regularisation, above 0.
        hidden: units of a hidden layer; 0: logistic regression.

    Returns:
        weight_0 (inputs × outputs), bias_0, and the same of a second layer; NaN if a log-probability is NaN.
    """
    import torch
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    from lightning_modules.ensembles.stacking import features

    classes = log_probabilities.shape[2]
    inputs = features(log_probabilities.double()).numpy()
    if np.isnan(inputs).any():
        shapes = {"weight_0": (inputs.shape[1], classes), "bias_0": (classes,)}
        return {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
    unknown = np.full((classes, inputs.shape[1]), -np.log(classes), inputs.dtype)
    fitted = (
        MLPClassifier((hidden,), solver="lbfgs", alpha=1 / c, max_iter=MOST_STEPS["hidden"], random_state=0)
        if hidden
        else LogisticRegression(C=c, max_iter=MOST_STEPS["linear"], tol=1e-5)
    )
    # One thread: the sums are too small to be divided, and on a busy machine threads wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the steps are a regularisation too
        fitted.fit(np.concatenate([inputs, unknown]), np.append(labels.numpy(), np.arange(classes)))
    weights = fitted.coefs_ if hidden else [fitted.coef_.T]
    biases = fitted.intercepts_ if hidden else [fitted.intercept_]
    if classes == 2:  # of two classes scikit-learn keeps the second one's output alone, and 0 is the first one's
        weights[-1] = np.hstack([np.zeros_like(weights[-1]), weights[-1]])
        biases[-1] = np.append(0.0, biases[-1])
    layers = {f"weight_{number}": value for number, value in enumerate(weights)}
    layers |= {f"bias_{number}": value for number, value in enumerate(biases)}
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in layers.items()}
