"""A dataset's experiment in MLflow."""

from typing import TYPE_CHECKING
from urllib.parse import quote

from flows.project import messages, paths
from flows.tracking import descriptions, mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens on the pages of trainings, not of chat models


def experiment(client: "MlflowClient", dataset: str) -> str:
    """The id of the dataset's experiment, which is created where there is none."""
    from filelock import FileLock
    from mlflow.exceptions import MlflowException

    paths.state_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(paths.state_folder() / "experiment.lock"):
        found = client.get_experiment_by_name(dataset)
        if found and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
            messages.warn(
                f"the experiment {dataset} was deleted in MLflow. It is needed, so it is restored with its runs"
            )
        if found:
            return found.experiment_id
        root = mlflow_store.artifacts_address()
        try:
            created = client.create_experiment(
                dataset, artifact_location=root and f"{root}/{quote(dataset)}", tags=KIND | descriptions.view()
            )
        except MlflowException:
            # Another machine was faster: the lock is this one's alone.
            if found := client.get_experiment_by_name(dataset):
                return found.experiment_id
            raise
        if mlflow_store.store_file() or mlflow_store.is_served_here():
            remove_default(client)
        return created


def tidy(client: "MlflowClient") -> None:
    """Before the pages of a store are shown: no empty experiment beside this project's."""
    if mlflow_store.store_file() and len(client.search_experiments(max_results=2)) > 1:
        remove_default(client)


def remove_default(client: "MlflowClient") -> None:
    """Deletes the experiment that MLflow makes in each new store, where nothing is in it: beside the dataset's it only
    makes a visitor look twice."""
    from mlflow.entities import ViewType

    found = client.get_experiment_by_name("Default")
    if not found or found.lifecycle_stage == "deleted":
        return
    place = [found.experiment_id]
    if not (
        client.search_runs(place, run_view_type=ViewType.ALL, max_results=1)
        or client.search_logged_models(place, max_results=1)
        or client.search_traces(locations=place, max_results=1, include_spans=False)
    ):
        client.delete_experiment(found.experiment_id)


def prepare() -> None:
    """Creates store and experiment once, before stages fan out. Raises ConnectionError like `connect`."""
    from flows.params.params_file import read

    experiment(mlflow_store.connect(), read().dataset)


def shown_experiment(client: "MlflowClient", dataset: str) -> str:
    """The id of the dataset's experiment, with its columns: one that was made elsewhere, or long ago, may lack them."""
    own = experiment(client, dataset)
    for key, value in descriptions.view().items():
        if client.get_experiment(own).tags.get(key) != value:
            client.set_experiment_tag(own, key, value)
    return own
