"""A dataset's experiment in MLflow."""

from typing import TYPE_CHECKING
from urllib.parse import quote

from flows.project import messages, paths
from flows.tracking import descriptions, mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}  # pages for trainings, not for chat models


def experiment(client: "MlflowClient", dataset: str) -> str:
    """The id of the dataset's experiment, which is created where it does not exist."""
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
                dataset, artifact_location=root and f"{root}/{quote(dataset)}", tags=KIND | descriptions.columns_tag()
            )
        except MlflowException:
            # Another machine was faster: the lock holds on this machine only.
            if found := client.get_experiment_by_name(dataset):
                return found.experiment_id
            raise
        if mlflow_store.store_file() or mlflow_store.is_served_here():
            remove_default(client)
        return created


def remove_empty_default(client: "MlflowClient") -> None:
    """Removes MLflow's empty default experiment from a local store, before its pages are shown."""
    if mlflow_store.store_file() and len(client.search_experiments(max_results=2)) > 1:
        remove_default(client)


def remove_default(client: "MlflowClient") -> None:
    """Deletes the experiment "Default", which MLflow makes in each new store, where it is empty: it only distracts."""
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
    """Creates store and experiment, once, before stages run in parallel. Raises ConnectionError like `connect`."""
    from flows.params.params_file import read

    experiment(mlflow_store.connect(), read().dataset)


def experiment_with_columns(client: "MlflowClient", dataset: str) -> str:
    """The id of the dataset's experiment. Sets the columns of its list of runs, which an older one may lack."""
    own = experiment(client, dataset)
    for key, value in descriptions.columns_tag().items():
        if client.get_experiment(own).tags.get(key) != value:
            client.set_experiment_tag(own, key, value)
    return own
