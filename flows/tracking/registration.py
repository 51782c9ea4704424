"""Logs an ensemble, and registers it as the dataset's challenger."""

import hashlib
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.tracking import descriptions, experiments, mlflow_runs, mlflow_store, provenance, registry, trusted_models
from flows.untrusted import masking
from lightning_modules import names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models.model import ModelInfo

# The metrics that the run of a registered ensemble needs before it can be champion.
SCORES = ("test_accuracy", "test_nll", "test_brier", "test_ece")
SCORES_OF = {
    "classification": SCORES,
    "regression": ("test_mse", "test_mae", "test_r2"),
    "sequence": ("test_accuracy", "test_cer", "test_nll"),
}
NOTE = "mlflow.note.content"  # the description that MLflow's pages show
NOTED = "trainyard.note_sha256"  # of the description that this project wrote: one that a person edited is kept
LOADER = "trainyard_ensemble"  # the module that each registered model contains


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Registrar(mlflow_runs.BestEffort):
    """Logs an ensemble and registers it as the dataset's challenger, and as champion where there is none.

    The first champion does not pass the gate: there is none to compare it with. But an ensemble without a finite
    number for a score stays a challenger.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset

    @mlflow_runs.best_effort
    def register(self, digest: str, card: dict, files: Path) -> dict | None:
        """Registers the ensemble, unless its digest is already registered, and sets its aliases.

        Args:
            digest: of everything that determines the ensemble: networks, method, vote weights, test data.
            card: shape, class_names, method, members, test_sha256, metrics (numbers to log), and what `record.ABOUT`
                names.
            files: the folder that `served_ensemble` loads.

        Returns:
            None where MLflow cannot be used. Else name, version, aliases; champion: the champion's version, None where
            there is none; unknown: the scores for which this version has no finite number.
        """
        client = mlflow_store.connect()
        trusted_models.note(self.dataset, files)  # also for a registered ensemble: its record may be lost
        with mlflow_runs.runs_lock():
            known = registry.versions_of(client, self.dataset, digest)
            version = known[0].version if known else self.add(client, digest, card, files)
        client.set_registered_model_alias(self.dataset, registry.CHALLENGER, version)
        scores = SCORES_OF[names.task_of(card)]
        unknown = [name for name in scores if not math.isfinite(card["metrics"].get(name, math.nan))]
        if not unknown and registry.CHAMPION not in client.get_registered_model(self.dataset).aliases:
            client.set_registered_model_alias(self.dataset, registry.CHAMPION, version)
        return self.describe(client, version) | {"unknown": unknown}

    def add(self, client: "MlflowClient", digest: str, card: dict, files: Path) -> str:
        """Logs a run and the model, and makes a version of the registered model. Returns the version."""
        from mlflow.entities import Param

        tags = provenance.provenance(self.dataset) | {
            "trainyard.kind": "ensemble",
            mlflow_runs.ENSEMBLE: digest,
            mlflow_runs.TEST: card["test_sha256"],
        }
        params = {"method": card["method"], "members": card["members"], "networks": card["networks"]}
        with mlflow_store.uninterrupted():
            run = client.create_run(
                experiments.experiment(client, self.dataset), run_name="ensemble", tags=tags
            ).info.run_id
            client.log_batch(
                run,
                metrics=mlflow_runs.metric_entities(card["metrics"]),
                params=[Param(name, str(value)[:6000]) for name, value in params.items()],
            )
            mlflow_runs.log_dataset(client, run, self.dataset, "evaluation")
        try:
            model = self.log_model(run, card, files)
        except BaseException as error:  # an interrupt as well; raised again
            with mlflow_store.uninterrupted():
                client.set_tag(run, mlflow_runs.ERROR, masking.text(str(error))[:5000])
                client.set_terminated(run, "FAILED")
            raise
        with mlflow_store.uninterrupted():
            if not client.search_registered_models(f"name = '{self.dataset}'"):
                client.create_registered_model(self.dataset)
            of_version = {mlflow_runs.ENSEMBLE: digest, mlflow_runs.TEST: card["test_sha256"]}
            version = client.create_model_version(
                self.dataset, model.model_uri, run_id=run, model_id=model.model_id, tags=of_version
            ).version
            self.describe_in_words(client, run, str(version), tags, card)
            return version

    def describe_in_words(
        self, client: "MlflowClient", run: str, version: str, tags: dict[str, str], card: dict
    ) -> None:
        """Writes the descriptions of the version, its run, the model and the experiment."""
        from flows.params.params_file import read

        address = mlflow_store.portable_uri()
        said = descriptions.verdict(self.dataset, card)
        results, made = descriptions.table(read()), descriptions.provenance_sentence(tags)
        own = descriptions.joined(said, results, made, descriptions.usage(self.dataset, f"/{version}", card, address))
        client.update_model_version(self.dataset, version, own)
        client.set_tag(run, NOTE, own)
        use = descriptions.usage(self.dataset, f"@{registry.CHAMPION}", card, address)
        if not client.get_registered_model(self.dataset).description:
            client.update_registered_model(self.dataset, descriptions.joined(use))
        place = client.get_experiment(client.get_run(run).info.experiment_id)
        whole = descriptions.joined(said, results, made, use)
        if place.tags.get(NOTED) == sha256(place.tags.get(NOTE, "")) or not place.tags.get(NOTE):
            client.set_experiment_tag(place.experiment_id, NOTE, whole)
            client.set_experiment_tag(place.experiment_id, NOTED, sha256(whole))

    def log_model(self, run: str, card: dict, files: Path) -> "ModelInfo":
        import mlflow
        import numpy as np
        import torch
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        from flows.models import served_ensemble

        columns: list[ColSpec | TensorSpec] = [ColSpec(kind, name) for name, kind in served_ensemble.columns(card)]
        dtype = np.dtype(card.get("dtype", "uint8"))
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / f"{LOADER}.py"
            shutil.copy(served_ensemble.__file__, code)
            with mlflow.start_run(run_id=run):
                return mlflow.pyfunc.log_model(
                    name="model",
                    loader_module=LOADER,
                    code_paths=[str(code)],
                    data_path=str(files),
                    signature=ModelSignature(
                        inputs=Schema([TensorSpec(dtype, (-1, *card["shape"]))]), outputs=Schema(columns)
                    ),
                    input_example=np.zeros((2, *card["shape"]), dtype),
                    pip_requirements=[
                        f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}", "pandas",
                    ],
                )  # fmt: skip

    def describe(self, client: "MlflowClient", version: str) -> dict:
        found = client.get_registered_model(self.dataset).aliases
        aliases = [alias for alias, number in found.items() if str(number) == str(version)]
        champion = found.get(registry.CHAMPION)
        return {
            "name": self.dataset, "version": str(version), "aliases": sorted(aliases),
            "champion": str(champion) if champion else None,
        }  # fmt: skip
