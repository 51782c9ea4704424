"""Logs a study to MLflow: one run for it, with its figures and tables, and one inside it for each variant and setting.

Single trainings are rows of an artifact, trainings.csv: thousands of runs would bury the others.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.tracking import experiments, mlflow_runs, mlflow_store, provenance

EXPERIMENT = "studies"
STUDY = "trainyard.study"
RESULT = "trainyard.study_sha256"


class StudyLog(mlflow_runs.BestEffort):
    """Logs a study that is finished. A store that fails costs no study: it is said, and nothing is logged.

    Args:
        name: of the study.
        stage: its stage in studies/dvc.yaml.
        about: its question.
        dataset: what it was trained on.
        data: a digest of the images.
        digest: identifies the result: one that is logged already is not logged again.
    """

    def __init__(self, name: str, stage: str, about: str, dataset: str, data: str, digest: str) -> None:
        self.name, self.about, self.dataset, self.data, self.digest = name, about, dataset, data, digest
        self.later = f"`dvc repro --force --single-item studies/dvc.yaml:{stage}` logs it, and trains nothing again"

    @mlflow_runs.best_effort
    @mlflow_store.uninterrupted()
    def log(
        self, params: Mapping[str, Any], variants: Sequence[Mapping[str, Any]], folders: Sequence[Path],
        written: Callable[[], Any],
    ) -> None:  # fmt: skip
        """Logs the run of the study and those of its variants.

        Args:
            params: of the study, nested.
            variants: a mapping each: name, setting, params (nested), metrics (numbers by name, those that are not
                finite are left out) and word, its verdict.
            folders: their files are artifacts of the study's run.
            written: waits until they are there.
        """
        with mlflow_runs.runs_lock():
            self.log_once(mlflow_store.connect(), params, variants, folders, written)

    def log_once(
        self, client: Any, params: Mapping[str, Any], variants: Sequence[Mapping[str, Any]], folders: Sequence[Path],
        written: Callable[[], Any],
    ) -> None:  # fmt: skip
        place = experiments.experiment(client, EXPERIMENT)
        if client.search_runs([place], f"tags.`{RESULT}` = '{self.digest}'", max_results=1):
            return
        tags = provenance.provenance(self.dataset) | {
            "trainyard.data_hash": self.data,
            STUDY: self.name,
            "trainyard.kind": "study",
        }
        parent = self.create(client, place, self.name, tags | {"mlflow.note.content": self.about}, params, {})
        for variant in variants:
            own = tags | {
                "mlflow.parentRunId": parent,
                "trainyard.kind": "variant",
                "trainyard.variant": variant["name"],
                "trainyard.setting": variant["setting"],
                "trainyard.verdict": variant["word"],
            }
            name = f"{variant['name']} ({variant['setting']})"
            client.set_terminated(self.create(client, place, name, own, variant["params"], variant["metrics"]))
        written()
        for folder in folders:
            client.log_artifacts(parent, str(folder))
        client.set_tag(parent, RESULT, self.digest)  # last: a run without it is not whole, and is logged once more
        client.set_terminated(parent)

    def create(
        self, client: Any, place: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> str:  # fmt: skip
        """A new run with its numbers, in one batch: each request is a transaction of the store."""
        from mlflow.entities import Param

        run = client.create_run(place, run_name=name, tags=tags).info.run_id
        flat = [Param(key, value[:5000]) for key, value in mlflow_runs.flatten(dict(params)).items()]
        client.log_batch(run, mlflow_runs.metric_entities(dict(metrics)), flat)
        return run
