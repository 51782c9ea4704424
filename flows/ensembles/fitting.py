"""Fits an ensemble method to validation images; out of fold where a method is to be judged on the same images."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.ensembles import stacking, super_learner
from lightning_modules import names

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.ensembles import Combiner

FOLDS = 5


def fit(given: str | dict, log_probabilities: "Tensor", labels: "Tensor") -> "Combiner":
    """The method, fitted to images and their labels.

    Args:
        given: an entry of `ensemble.methods`.
        log_probabilities: networks × images × classes.
        labels: images.
    """
    from lightning_modules.ensembles import Combiner, temperature

    settings = names.completed(given, names.ENSEMBLES)
    method, scale = settings.pop("name"), settings.pop("temperature", False)
    fitted = {}
    if scale:
        fitted["temperatures"] = temperature.fit_temperatures(log_probabilities, labels)
        log_probabilities = temperature.scaled(log_probabilities, fitted["temperatures"])
    return Combiner(method, fitted | fits().get(method, nothing)(log_probabilities, labels, **settings))


def fits() -> dict[str, Callable[..., dict[str, Any]]]:
    """What a method fits, by its name; the others fit nothing."""
    from lightning_modules.ensembles import greedy, mixture

    return {
        "greedy": lambda *given, **own: {"weights": greedy.fit_weights(*given, **own)},
        "stacking": stacking.fit_layers,
        "super_learner": lambda *given: {"weights": super_learner.fit_weights(*given)},
        "weighted_vote": lambda *given: {"weights": mixture.fit_weights(*given)},
    }


def nothing(log_probabilities: "Tensor", labels: "Tensor") -> dict[str, Any]:
    return {}


def out_of_fold(given: str | dict, log_probabilities: "Tensor", labels: "Tensor") -> "Tensor":
    """What the method says of each image when it was fitted to the images of other folds; log-probabilities, images ×
    classes.

    So nothing was fitted to the label of an image that is combined, which makes the method comparable, on these images,
    with methods that fit nothing.

    Args:
        given: an entry of `ensemble.methods`.
        log_probabilities: networks × images × classes.
        labels: images.
    """
    import torch

    settings = names.completed(given, names.ENSEMBLES)
    if not settings.get("temperature") and settings["name"] not in fits():
        return fit(given, log_probabilities, labels)(log_probabilities)
    # In random order: the images' own may go with their labels.
    fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % FOLDS
    result = torch.empty_like(log_probabilities[0])
    for number in range(FOLDS):
        inside = fold == number
        if inside.any():
            fitted = fit(given, log_probabilities[:, ~inside], labels[~inside])
            result[inside] = fitted(log_probabilities[:, inside])
    return result
