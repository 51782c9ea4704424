"""Stage ensemble: lets all replicas of all members vote, chooses the way on validation, scores it once on test.

Reads   data/<dataset>/ (labels), models/<dataset>/, predictions/<dataset>/, metrics/<dataset>/members/
Writes  metrics/<dataset>/ensemble.json;
        plots/<dataset>/ensemble/: methods.csv, weights.csv, classes.csv, confusion.csv, reliability.csv;
        registers the ensemble in MLflow as challenger, and as champion where there is none
Run     python -m flows.ensemble
"""

import csv
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from flows import cached, dataset, models, plots, project
from flows.console import run
from flows.params import Params, read
from lightning_modules import sealed
from lightning_modules.errors import DamagedError, InputError, counted

if TYPE_CHECKING:
    from torch import Tensor


def ensemble(params: Params) -> dict:
    """Combines, chooses, scores and registers.

    Returns:
        What was written to metrics/<dataset>/ensemble.json: the chosen method, its scores on validation and test,
        the gain over the member that is best on validation and the disagreement of the networks.

    Raises:
        InputError: a member is not trained, or the data was changed.
    """
    import torch

    from flows.export import export
    from flows.tracking import Registrar
    from lightning_modules import scores, voting

    name = params.dataset
    data = dataset.load(name)
    class_names = data.card["class_names"]
    models.check(name, params.members)
    networks = [f"{member}-{number}" for member, recipe in params.members.items() for number in range(recipe.replicas)]
    labels = {split: torch.from_numpy(data.labels(split)) for split in project.SPLITS}
    try:
        predicted = {split: predictions(name, params.members, split) for split in project.SPLITS}
        members = {member: project.member_metrics(name, member) for member in params.members}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run dvc repro evaluate") from None
    trained = {member: models.load(name, member) for member in params.members}

    votes = {
        # Weights that were fitted to these images would win on them by construction.
        method: voting.cross_fitted_vote(predicted["validation"], labels["validation"])
        if method == "weighted_vote"
        else voting.VOTES[method](predicted["validation"])
        for method in params.ensemble.methods
    }
    on_validation = {method: scores.score(vote, labels["validation"]) for method, vote in votes.items()}
    method = choose(on_validation, params.ensemble.select_by)
    weights = voting.fit_weights(predicted["validation"], labels["validation"]) if method == "weighted_vote" else None
    chosen = voting.VOTES[method](predicted["test"], weights)
    of_members = {member: numbers["validation"] for member, numbers in members.items()}
    best_member = choose(of_members, params.ensemble.select_by)
    test = scores.score(chosen, labels["test"])
    result = {
        "method": method,
        "select_by": params.ensemble.select_by,
        "networks": len(networks),
        "parameters": sum(members[member]["parameters"] * recipe.replicas for member, recipe in params.members.items()),
        "validation": on_validation[method],
        "test": test,
        "best_member": best_member,
        "gain": {
            "accuracy": test["accuracy"] - members[best_member]["test"]["accuracy"],
            "nll": members[best_member]["test"]["nll"] - test["nll"],
        },
        "disagreement": scores.disagreement(predicted["test"]),
    }
    project.write_json(project.ensemble_metrics_file(name), result)
    tables = {
        "methods": [{"method": key, **numbers} for key, numbers in on_validation.items()],
        "weights": [
            {"network": network, "weight": 1 / len(networks) if weights is None else weights[number].item()}
            for number, network in enumerate(networks)
        ],
        "classes": plots.per_class("ensemble", scores.per_class(chosen, labels["test"], class_names)),
        "confusion": plots.confusion("ensemble", chosen, labels["test"], class_names),
        "reliability": [{"network": "ensemble", **row} for row in scores.reliability(chosen, labels["test"])],
    }
    with (
        project.whole_folder(project.plots_folder(name) / "ensemble") as unfinished,
        plots.Tables(unfinished) as files,
    ):
        for table, rows in tables.items():
            files.add(table, rows)
    say(result)

    digest = digest_of(
        method,
        None if weights is None else weights.tolist(),
        [member_card for member_card, _ in trained.values()],
        data.card["test_sha256"],
    )
    card = {
        "method": method,
        "members": ", ".join(params.members),
        "networks": len(networks),
        "shape": data.card["shape"],
        "class_names": class_names,
        "test_sha256": data.card["test_sha256"],
        "metrics": {
            # By the names that the members' scores have, so that MLflow compares them.
            **{f"best_validation_{score}": value for score, value in on_validation[method].items()},
            **{f"test_{score}": value for score, value in test.items()},
            **{f"gain_{score}": value for score, value in result["gain"].items()},
            "disagreement": result["disagreement"],
        },
    }
    predictors = [predictor for _, own in trained.values() for predictor in own]
    with tempfile.TemporaryDirectory() as folder:
        export(predictors, voting.Vote(method, weights), data.card["shape"], class_names, Path(folder))
        version = Registrar(name).register(digest, card, Path(folder))
    if version:
        if "champion" in version["aliases"]:
            stays = ""
        elif version["champion"]:
            stays = f"; the champion is version {version['champion']}"
        else:
            stays = f"; not champion, since it has no number for {', '.join(version['unknown'])}"
        print(f"registered: {version['name']} version {version['version']}, {' and '.join(version['aliases'])}{stays}")
    return result


def digest_of(method: str, weights: list[float] | None, cards: Iterable[dict], test_sha256: str) -> str:
    """Of all that makes an ensemble: the way to vote, its weights if it has some, the networks by their members' cards,
    and the test data."""
    networks = [replica["weights_sha256"] for card in cards for replica in card["replicas"]]
    made_of = {"method": method, "weights": weights, "networks": networks, "test": test_sha256}
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def digest_here(params: Params) -> str:
    """That of the ensemble whose files lie here, by which the registry knows it.

    Raises:
        InputError: there is none.
    """
    name = params.dataset
    try:
        method = project.ensemble_metrics(name)["method"]
        weights = vote_weights(name) if method == "weighted_vote" else None
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run dvc repro ensemble") from None
    cards = [models.card(name, member) for member in params.members]
    return digest_of(method, weights, cards, dataset.read_card(name)["test_sha256"])


def vote_weights(name: str) -> list[float]:
    """Those that were fitted, by network. Raises DamagedError, and what opening a file raises."""
    path = project.plots_folder(name) / "ensemble" / "weights.csv"
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [float(row["weight"]) for row in csv.DictReader(file)]
        except (ValueError, KeyError, TypeError):
            raise project.damaged(path, "is damaged", cached.heal(path, "ensemble")) from None


def choose(candidates: dict[str, dict[str, float]], select_by: str) -> str:
    """The name with the best validation score; the other score decides between equals, then the first one wins.
    A NaN is the worst score: it is neither smaller nor larger than another, and would stay where it comes first."""

    def badness(name: str) -> tuple[float, ...]:
        numbers = candidates[name]
        both = tuple(math.inf if math.isnan(value) else value for value in (numbers["nll"], -numbers["accuracy"]))
        return both if select_by == "nll" else both[::-1]

    return min(candidates, key=badness)


def predictions(name: str, members: Iterable[str], split: str) -> "Tensor":
    """Log-probabilities, networks × images × classes, of all replicas of all members.

    Raises:
        DamagedError: a file is not what evaluate wrote.
        FileNotFoundError: it is not there.
    """
    import torch

    places = [project.predictions_file(name, member, split) for member in members]
    written = predictions_written(name)
    files = []
    for place in places:
        expected = written.get(place.name)
        if expected and place.exists() and dataset.file_sha256(place) != expected:
            raise project.damaged(place, "is not what evaluate wrote (changed or damaged)", heal(place))
        # Mapped, not read: the stack is then the only copy.
        try:
            files.append(np.load(place, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise project.damaged(place, f"is damaged ({error})", heal(place)) from None
    return torch.from_numpy(np.concatenate(files))


def predictions_written(name: str) -> dict[str, str]:
    """The SHA-256 by file of what evaluate wrote, or nothing, of a time before it noted them."""
    file = project.predictions_file(name, "", "").with_name("files.json")
    try:
        return sealed.opened(project.read_json(file, "files"), file)["files"]
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        raise project.damaged(file, error.reason, heal(file)) from None


def heal(file: Path) -> str:
    return cached.heal(file, "evaluate")


def say(result: dict) -> None:
    test, gain = result["test"], result["gain"]
    apart = f"; two networks disagree on {result['disagreement']:.2%}" if result["networks"] > 1 else ""
    print(
        f"{result['method']} of {counted(result['networks'], 'network')}: test accuracy {test['accuracy']:.2%} "
        f"({gain['accuracy'] * 100:+.2f} points over {result['best_member']}), nll {test['nll']:.4f} "
        f"({-gain['nll']:+.4f}), ece {test['ece']:.4f}{apart}"
    )


@click.command()
def command() -> None:
    """Combine all replicas of all members, choose the way on validation, score it once on test, register it."""
    ensemble(read())


if __name__ == "__main__":
    run(command, libraries=True)
