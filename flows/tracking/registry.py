"""A dataset's model in MLflow's registry: its versions, their tags and aliases.

Each read or write is atomic. `flows.promotion` decides on their order.
"""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.project.errors import InputError
from flows.tracking import mlflow_runs, mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"  # aliases


def absent(error: Exception) -> bool:
    """Whether an error of MLflow says that the entity does not exist."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


@contextmanager
def asked() -> Iterator[None]:
    """Around what is asked of the store, whose errors become UnavailableErrors."""
    with mlflow_store.or_unavailable(), mlflow_store.uninterrupted():
        yield


class Registry:
    """The registered model of a dataset.

    Every method raises UnavailableError where the store does not answer, or cannot be written.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset

    @functools.cached_property
    def client(self) -> "MlflowClient":
        return mlflow_store.connect()

    @asked()
    def describe(self) -> tuple[dict[str, str], dict[str, str]]:
        """(aliases, tags) of the model, from one read; both empty without a model. aliases: the version by alias."""
        if not mlflow_store.store_exists():
            return {}, {}  # asking would create it
        from mlflow.exceptions import MlflowException

        try:
            model = self.client.get_registered_model(self.dataset)
        except MlflowException as error:
            if absent(error):
                return {}, {}
            raise
        return {alias: str(version) for alias, version in model.aliases.items()}, dict(model.tags)

    def aliases(self) -> dict[str, str]:
        return self.describe()[0]

    @asked()
    def version(self, number: str) -> dict:
        """version, run_id and tags of a version.

        Raises:
            InputError: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version(self.dataset, number)
        except MlflowException as error:
            if absent(error):
                raise InputError(
                    f"there is no version {number} of {self.dataset} in {mlflow_store.shown_store()}"
                ) from None
            raise
        return {"version": str(found.version), "run_id": found.run_id, "tags": dict(found.tags)}

    @asked()
    def versions(self) -> list[dict]:
        """version and tags of every version; empty without a model."""
        if not mlflow_store.store_exists():
            return []
        found, token = [], None
        while token != "":
            page = self.client.search_model_versions(f"name = '{self.dataset}'", page_token=token)
            found += [{"version": str(version.version), "tags": dict(version.tags)} for version in page]
            token = page.token or ""
        return found

    @asked()
    def has_ensemble(self, digest: str) -> bool:
        """Whether the ensemble with this digest is registered."""
        return bool(versions_of(self.client, self.dataset, digest))

    @asked()
    def metrics(self, run: str) -> dict[str, float]:
        """The last values of a run's metrics; empty where the run was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.client.get_run(run).data.metrics)
        except MlflowException as error:
            if absent(error):
                return {}
            raise

    @asked()
    def set_alias(self, alias: str, version: str | None) -> None:
        """Sets an alias to a version; None removes the alias."""
        if version is None:
            self.client.delete_registered_model_alias(self.dataset, alias)
        else:
            self.client.set_registered_model_alias(self.dataset, alias, version)

    @asked()
    def set_tag(self, key: str, value: str | None) -> None:
        """Sets a tag of the model, at most 5000 characters; None removes it."""
        if value is None:
            self.client.delete_registered_model_tag(self.dataset, key)
        else:
            self.client.set_registered_model_tag(self.dataset, key, value)

    @asked()
    def set_version_tag(self, version: str, key: str, value: str) -> None:
        """Sets a tag of a version."""
        self.client.set_model_version_tag(self.dataset, version, key, value)

    @asked()
    def log_json(self, run: str, file: str, content: dict) -> None:
        """Writes JSON as an artifact of a run."""
        self.client.log_text(run, json.dumps(content, indent=2, ensure_ascii=False) + "\n", file)


def versions_of(client: "MlflowClient", dataset: str, digest: str) -> list:
    """The versions of the dataset's model that are the ensemble with this digest."""
    return client.search_model_versions(f"name = '{dataset}' and tags.`{mlflow_runs.ENSEMBLE}` = '{digest}'")
