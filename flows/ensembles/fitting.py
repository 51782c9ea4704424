"""Fits an ensemble method to validation images; out of fold where a method is to be judged on the same images."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.ensembles import least_squares, stacking
from lightning_modules import names

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.ensembles import Combiner
    from lightning_modules.tasks import Task

FOLDS = 5


def fit(task: "Task", given: str | dict, predictions: "Tensor", labels: "Tensor") -> "Combiner":
    """The method, fitted to images and their labels.

    Args:
        given: an entry of `ensemble.methods`.
        predictions: networks × images × ...; what of an image they are depends on the task.
        labels: images × ....
    """
    from lightning_modules.ensembles import Combiner, temperature

    settings = names.completed(given, names.ENSEMBLES)
    method, scale = settings.pop("name"), settings.pop("temperature", False)
    fitted = {}
    if scale:
        fitted["temperatures"] = temperature.fit_temperatures(predictions, labels)
        predictions = temperature.scaled(predictions, fitted["temperatures"])
    if fits := fits_of(task).get(method):
        fitted |= fits(predictions, labels, **settings)
    return Combiner(method, fitted, task.ENSEMBLES)


def fits_of(task: "Task") -> dict[str, Callable[..., dict[str, Any]]]:
    """What fits a method, by its name; the others fit nothing."""
    from lightning_modules.ensembles import greedy, mixture
    from lightning_modules.tasks import Regression

    if isinstance(task, Regression):
        return {"weighted_vote": lambda found, truth: {"weights": least_squares.fit_weights(found[..., 0], truth)}}
    return {
        "greedy": lambda *given, **own: {"weights": greedy.fit_weights(*given, **own)},
        "stacking": stacking.fit_layers,
        "super_learner": lambda found, labels: {"weights": super_learner(found, labels)},
        "weighted_vote": lambda *given: {"weights": mixture.fit_weights(*given)},
    }


def super_learner(log_probabilities: "Tensor", labels: "Tensor") -> "Tensor":
    """The weights of the networks' mixture that minimise its Brier score."""
    from torch.nn.functional import one_hot

    probabilities = log_probabilities.exp()
    truth = one_hot(labels, probabilities.shape[2]).to(probabilities.dtype)
    return least_squares.fit_weights(probabilities.flatten(1), truth.flatten())


def out_of_fold(task: "Task", given: str | dict, predictions: "Tensor", labels: "Tensor") -> "Tensor":
    """What the method predicts of each image, images × ..., when it was fitted to the images of other folds.

    So nothing was fitted to the label of an image that is combined, which makes the method comparable, on these images,
    with methods that fit nothing.

    Args:
        given: an entry of `ensemble.methods`.
        predictions: networks × images × ...; what of an image they are depends on the task.
        labels: images × ....
    """
    import torch

    settings = names.completed(given, names.ENSEMBLES)
    if not settings.get("temperature") and settings["name"] not in fits_of(task):
        return fit(task, given, predictions, labels)(predictions)
    # In random order: the images' own may go with their labels.
    fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % FOLDS
    result = torch.empty_like(predictions[0])
    for number in range(FOLDS):
        inside = fold == number
        if inside.any():
            fitted = fit(task, given, predictions[:, ~inside], labels[~inside])
            result[inside] = fitted(predictions[:, inside])
    return result
