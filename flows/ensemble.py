"""Stage ensemble: lets all replicas of all members vote, chooses the way on validation, scores it once on test.

Reads   data/<dataset>/ (labels), models/<dataset>/, predictions/<dataset>/, metrics/<dataset>/members/
Writes  metrics/<dataset>/ensemble.json;
        plots/<dataset>/ensemble/: methods.csv, weights.csv, classes.csv, confusion.csv, reliability.csv;
        registers the ensemble in MLflow as challenger, and as champion where there is none
Run     python -m flows.ensemble
"""

import tempfile
from pathlib import Path

import click

from flows.commands.console import run
from flows.data import dataset
from flows.ensembles import choice, predictions, registering
from flows.models import measurements, trained_members
from flows.params.params_file import Params, read
from flows.project import file_io, paths
from flows.reporting import dvc_plots
from lightning_modules.errors import InputError, counted


def ensemble(params: Params) -> dict:
    """Combines, chooses, scores and registers.

    Returns:
        What was written to metrics/<dataset>/ensemble.json: the chosen method, its scores on validation and test,
        the gain over the member that is best on validation and the disagreement of the networks.

    Raises:
        InputError: a member is not trained, or the data was changed.
    """
    import torch

    from flows.models.export import export
    from flows.tracking.registration import Registrar
    from lightning_modules import scores, voting

    name = params.dataset
    data = dataset.load(name)
    class_names = data.card["class_names"]
    trained_members.check(name, params.members)
    networks = [f"{member}-{number}" for member, recipe in params.members.items() for number in range(recipe.replicas)]
    labels = {split: torch.from_numpy(data.labels(split)) for split in paths.SPLITS}
    try:
        predicted = {split: predictions.predictions(name, params.members, split) for split in paths.SPLITS}
        members = {member: measurements.member_metrics(name, member) for member in params.members}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run dvc repro evaluate") from None
    trained = {member: trained_members.load(name, member) for member in params.members}

    votes = {
        # Weights that were fitted to these images would win on them by construction.
        method: voting.cross_fitted_vote(predicted["validation"], labels["validation"])
        if method == "weighted_vote"
        else voting.VOTES[method](predicted["validation"])
        for method in params.ensemble.methods
    }
    on_validation = {method: scores.score(vote, labels["validation"]) for method, vote in votes.items()}
    method = choice.choose(on_validation, params.ensemble.select_by)
    weights = voting.fit_weights(predicted["validation"], labels["validation"]) if method == "weighted_vote" else None
    chosen = voting.VOTES[method](predicted["test"], weights)
    of_members = {member: numbers["validation"] for member, numbers in members.items()}
    best_member = choice.choose(of_members, params.ensemble.select_by)
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
    file_io.write_json(paths.ensemble_metrics_file(name), result)
    tables = {
        "methods": [{"method": key, **numbers} for key, numbers in on_validation.items()],
        "weights": [
            {"network": network, "weight": 1 / len(networks) if weights is None else weights[number].item()}
            for number, network in enumerate(networks)
        ],
        "classes": dvc_plots.per_class("ensemble", scores.per_class(chosen, labels["test"], class_names)),
        "confusion": dvc_plots.confusion("ensemble", chosen, labels["test"], class_names),
        "reliability": [{"network": "ensemble", **row} for row in scores.reliability(chosen, labels["test"])],
    }
    with (
        file_io.whole_folder(paths.plots_folder(name) / "ensemble") as unfinished,
        dvc_plots.Tables(unfinished) as files,
    ):
        for table, rows in tables.items():
            files.add(table, rows)
    say(result)

    digest = registering.digest_of(
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
