"""All replicas of all members combined into one classifier: chosen on validation, scored once on test."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.data import dataset
from flows.ensembles import record
from flows.ensembles.choice import choose
from flows.ensembles.fitting import fit, out_of_fold
from flows.ensembles.predictions import predictions
from flows.ensembles.record import Record
from flows.models import measurements, trained_members
from flows.params.params_file import Params
from flows.project import paths
from flows.project.errors import InputError
from flows.reporting import by_task
from lightning_modules import names

if TYPE_CHECKING:
    from lightning_modules.ensembles import Combiner


@dataclass(frozen=True)
class Combined:
    """The result of `combine`.

    Attributes:
        result: the chosen method, its scores on validation and test, the gain over the member that is best on
            validation, and of classifiers the disagreement of the networks.
        tables: rows for plots, by table.
        record: what the ensemble is made of.
    """

    result: dict
    tables: Mapping[str, Iterable[dict]]
    record: Record


def combine(params: Params) -> Combined:
    """Combines all networks by each method in params.yaml that the task has, and chooses a method.

    Raises:
        InputError: a member is not trained or evaluated, or a file was changed.
    """
    import torch

    from lightning_modules import scores, tasks

    name = params.dataset
    data = dataset.load(name)
    class_names, kind, task = data.card["class_names"], names.task_of(data.card), tasks.of(data.card)
    trained_members.check(name, params.members)
    networks = [f"{member}-{number}" for member, recipe in params.members.items() for number in range(recipe.replicas)]
    labels = {split: torch.from_numpy(data.labels(split)) for split in paths.SPLITS}
    try:
        predicted = {split: predictions(name, params.members, split) for split in paths.SPLITS}
        members = {member: measurements.member_metrics(name, member) for member in params.members}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run dvc repro evaluate") from None

    methods = {
        label: given
        for label, given in zip(params.ensemble.labels, params.ensemble.methods)
        if names.name_of(given) in task.ENSEMBLES
    }
    on_validation = {
        method: task.score(
            out_of_fold(task, given, predicted["validation"], labels["validation"]), labels["validation"]
        )
        for method, given in methods.items()
    }
    method = choose(on_validation, params.ensemble.select_by, task.ORDERS)
    combiner = fit(task, methods[method], predicted["validation"], labels["validation"])
    chosen = combiner(predicted["test"])
    of_members = {member: numbers["validation"] for member, numbers in members.items()}
    best_member = choose(of_members, params.ensemble.select_by, task.ORDERS)
    test = task.score(chosen, labels["test"])
    best = members[best_member]["test"]
    result = {
        "method": method,
        "select_by": params.ensemble.select_by,
        "networks": len(networks),
        "parameters": sum(members[member]["parameters"] * recipe.replicas for member, recipe in params.members.items()),
        "validation": on_validation[method],
        "test": test | by_task.intervals(kind, task, chosen[None], labels["test"]),
        "best_member": best_member,
        # Better is positive.
        "gain": {score: sign * (best[score] - test[score]) for score, sign in sorted(task.ORDERS["nll"])},
    }
    if kind == "classification":
        result["disagreement"] = scores.disagreement(predicted["test"])
    return Combined(
        result,
        {
            "methods": [{"method": key, **numbers} for key, numbers in on_validation.items()],
            "weights": weight_rows(networks, combiner),
            **by_task.plots(kind, "ensemble", chosen, labels["test"], class_names),
        },
        Record(
            dataset=name,
            method=method,
            fitted={part: values.tolist() for part, values in combiner.named_buffers()},
            networks={
                member: [replica["weights_sha256"] for replica in trained_members.card(name, member)["replicas"]]
                for member in params.members
            },
            shape=data.card["shape"],
            class_names=class_names,
            test_sha256=data.card["test_sha256"],
            metrics={
                # The names are those of the members' scores, so that MLflow can compare them.
                **{f"best_validation_{score}": value for score, value in on_validation[method].items()},
                **{f"test_{score}": value for score, value in test.items()},
                **{f"gain_{score}": value for score, value in result["gain"].items()},
                **({"disagreement": result["disagreement"]} if "disagreement" in result else {}),
            },
            about={key: data.card[key] for key in record.ABOUT if key in data.card},
        ),
    )


def weight_rows(networks: list[str], combiner: "Combiner") -> list[dict]:
    """Each network's share in the ensemble; of `stacking` the share of its absolute weights in the first layer."""
    fitted = dict(combiner.named_buffers())
    if "weight_0" in fitted:
        parts = fitted["weight_0"].abs().reshape(len(networks), -1).sum(1)
        shares = (parts / parts.sum()).tolist()
    else:
        shares = fitted["weights"].tolist() if "weights" in fitted else [1 / len(networks)] * len(networks)
    return [{"network": network, "weight": share} for network, share in zip(networks, shares, strict=True)]
