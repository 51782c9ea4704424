"""What networks learn: a class of each image, a number, or a sequence of classes."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning_modules import names
from lightning_modules.tasks.classification import Classification
from lightning_modules.tasks.interface import Task
from lightning_modules.tasks.regression import Regression
from lightning_modules.tasks.sequence import Sequence

__all__ = ["TASKS", "Task", "of"]

TASKS: dict[str, Callable[[Mapping[str, Any]], Task]] = {
    "classification": Classification,
    "regression": Regression,
    "sequence": Sequence,
}


def of(card: Mapping[str, Any]) -> Task:
    """The task of a dataset's card, or of a member's.

    Args:
        card: with `class_names`; `task`, classification where it is missing; and for regression `target`: its name, and
            the mean and standard deviation of the training images' targets.
    """
    return TASKS[names.task_of(card)](card)
