"""What is told of scores, by what networks learn: columns of tables, lines on the terminal, rows for plots."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from flows.statistics.replicates import accuracy_text, score_text, wilson_interval

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.tasks import Task

# The score that stands for all, and those beside it in a table.
FIRST = {"classification": "accuracy", "regression": "mse", "sequence": "accuracy"}
BESIDE = {"classification": ("nll", "ece"), "regression": ("mae", "r2"), "sequence": ("cer", "nll")}
# What validation is shown by, beside the first.
CHOSEN_BY = {"classification": "nll", "regression": "mae", "sequence": "nll"}
# What is told of a test on one line.
LINE = {
    "classification": ("nll", "brier", "ece", "top_5"), "regression": ("mae", "r2"), "sequence": ("cer", "nll"),
}  # fmt: skip


def headings(task: str) -> tuple[str, ...]:
    first = FIRST[task]
    return (
        "", "replicas", "parameters", f"validation {first}", f"validation {CHOSEN_BY[task]}", f"test {first}",
        "95% interval", *(f"test {name}" for name in BESIDE[task]), "seconds",
    )  # fmt: skip


def legend(task: str) -> str:
    if task == "regression":
        return (
            "MSE is the mean ± the sample standard deviation over replicas; its 95% interval (the bootstrap's) is what "
            "the number of test rows leaves open. metrics/ has those of the other scores."
        )
    return (
        "Accuracy is the mean ± the sample standard deviation over replicas; its 95% interval (Wilson's) is what the "
        "number of test images leaves open."
    )


def selected_by(task: str, select_by: str) -> str:
    """What a way to vote is chosen by."""
    return "MSE" if task == "regression" else "NLL" if select_by == "nll" else "accuracy"


def first_text(task: str, numbers: Mapping[str, float]) -> str:
    """The first score, with its deviation over replicas where there is one."""
    if FIRST[task] == "accuracy":
        return accuracy_text(dict(numbers))
    deviation = f" ± {score_text('mse', numbers['mse_std'])}" if "mse_std" in numbers else ""
    return f"{score_text('mse', numbers['mse'])}{deviation}"


def chosen_text(task: str, numbers: Mapping[str, float]) -> str:
    return score_text(CHOSEN_BY[task], numbers[CHOSEN_BY[task]])


def test_cells(task: str, test: Mapping[str, float], images: int) -> list[str]:
    """The first score's interval, and the scores beside it."""
    return [interval_text(task, test, images), *(score_text(name, test[name]) for name in BESIDE[task])]


def interval_text(task: str, test: Mapping[str, float], images: int) -> str:
    """The 95 % interval of the first score on test."""
    if FIRST[task] == "accuracy":
        low, high = wilson_interval(test["accuracy"], images)
        return f"{low:.1%} to {high:.1%}"
    return " to ".join(score_text("mse", test[f"mse_{end}"]) for end in ("low", "high"))


def line(task: str, test: Mapping[str, float]) -> str:
    """The scores of a test on one line; top_5 where there are more than five classes."""
    rest = ", ".join(f"{name} {score_text(name, test[name])}" for name in LINE[task] if name in test)
    return f"test {FIRST[task]} {first_text(task, test)}, {rest}"


def gain_text(gain: Mapping[str, float]) -> str:
    """How much better an ensemble is than the best member: mse 61.2 less, accuracy 1.20 points more."""
    if "accuracy" in gain:
        return f"{gain['accuracy'] * 100:+.2f} points"
    return f"mse {score_text('mse', abs(gain['mse']))} {'less' if gain['mse'] >= 0 else 'more'}"


def intervals(name: str, task: "Task", replicas: "Tensor", labels: "Tensor") -> dict[str, float]:
    """The ends of the 95 % intervals of a member's scores, means over its replicas, as <score>_low and <score>_high;
    none for classification, whose accuracy has Wilson's.

    Args:
        name: of the task.
        replicas: their predictions, replicas × images × ....
    """
    import torch

    from flows.statistics import bootstrap

    if name == "classification":
        return {}
    each = [task.columns(predictions.double(), labels) for predictions in replicas]
    columns = {key: torch.stack([one[key].double() for one in each]).mean(0) for key in each[0]}
    ends = bootstrap.intervals(columns, task.scores)
    return {f"{key}_{end}": value for key, pair in ends.items() for end, value in zip(("low", "high"), pair)}


def plots(
    name: str, network: str, predictions: "Tensor", labels: "Tensor", class_names: list[str]
) -> dict[str, Iterable[dict]]:
    """Rows for plots by table, of a network's predictions on test."""
    from flows.reporting import dvc_plots
    from lightning_modules import scores

    if name == "regression":
        pairs = zip(labels.tolist(), predictions[..., 0].tolist())
        return {"predicted": [{"network": network, "actual": one, "predicted": other} for one, other in pairs]}
    if name == "sequence":
        return {}
    return {
        "classes": dvc_plots.per_class(network, scores.per_class(predictions, labels, class_names)),
        "confusion": dvc_plots.confusion(network, predictions, labels, class_names),
        "reliability": [{"network": network, **row} for row in scores.reliability(predictions, labels)],
    }
