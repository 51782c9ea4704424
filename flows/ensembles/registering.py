"""Registers the dataset's ensemble in MLflow, as challenger, and as champion if there is none."""

import tempfile
from pathlib import Path

from flows.ensembles import record
from flows.ensembles.record import Record
from flows.models import trained_members
from flows.project.errors import InputError


def register(dataset: str) -> None:
    """Exports the ensemble of ensembles/<dataset>.json, registers it unless it is registered already, and says so.

    If MLflow cannot be used, a warning says so, and `trainyard track` registers it later.

    Raises:
        InputError: there is no ensemble, or models/ does not have its networks.
    """
    import torch

    from flows.models.export import export
    from flows.tracking.registration import Registrar
    from lightning_modules import tasks
    from lightning_modules.ensembles import Combiner

    made = record.read(dataset)
    predictors = [predictor for member in made.networks for predictor in networks(made, member)]
    fitted = {name: torch.tensor(values) for name, values in made.fitted.items()}
    combines = tasks.of({"class_names": made.class_names, **made.about}).ENSEMBLES
    combiner = Combiner(made.method.partition("(")[0], fitted, combines)
    with tempfile.TemporaryDirectory() as folder:
        export(predictors, combiner, made.shape, made.class_names, Path(folder), made.about)
        card = {
            "method": made.method,
            "members": ", ".join(made.networks),
            "networks": made.size,
            "shape": made.shape,
            "class_names": made.class_names,
            "test_sha256": made.test_sha256,
            "metrics": made.metrics,
            **made.about,
        }
        version = Registrar(dataset).register(made.digest, card, Path(folder))
    if version:
        if "champion" in version["aliases"]:
            stays = ""
        elif version["champion"]:
            stays = f"; the champion is version {version['champion']}"
        else:
            stays = f"; not champion, since it has no number for {', '.join(version['unknown'])}"
        print(f"registered: {version['name']} version {version['version']}, {' and '.join(version['aliases'])}{stays}")


def networks(made: Record, member: str) -> list:
    """The predictors of a member. Raises InputError if they are not the ones that the ensemble was made of."""
    card, predictors = trained_members.load(made.dataset, member)
    if [replica["weights_sha256"] for replica in card["replicas"]] != made.networks[member]:
        raise InputError(
            f"models/{made.dataset}/{member} holds other networks than the ensemble was made of: run dvc repro ensemble"
        )
    return predictors
