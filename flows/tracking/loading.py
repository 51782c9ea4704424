"""Loads registered models, after checking that this project trusts them and that their files are unchanged."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.project.errors import InputError, UnavailableError, our_mistake
from flows.tracking import mlflow_store, registration, registry, trusted_models
from flows.untrusted import bounded_yaml, masking
from flows.untrusted.escaping import printable

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient

    from flows.models.served_ensemble import ServedEnsemble


def champion(dataset: str) -> dict | None:
    """name, version, run_id, alias and tags of the dataset's champion; None where there is none.

    Raises:
        ConnectionError: the store's server does not answer.
    """
    import mlflow

    if not mlflow_store.store_exists():
        return None
    client = mlflow_store.connect()
    try:
        version = client.get_model_version_by_alias(dataset, registry.CHAMPION)
    except mlflow.exceptions.MlflowException as error:
        # The first: no such model. The second: no such alias.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return {
        "name": dataset, "version": str(version.version), "run_id": version.run_id, "alias": registry.CHAMPION,
        "tags": dict(version.tags),
    }  # fmt: skip


def load_champion(dataset: str) -> tuple["ServedEnsemble | ForeignModel", dict]:
    """The champion's model, as from `load_version`, and what `champion` says of it.

    Raises:
        InputError: there is no champion, or it is not trusted, see `trusted_models`.
        UnavailableError: the store does not answer, or the model cannot be loaded.
    """
    found = require_champion(dataset)
    return load_version(dataset, found["version"], f"the champion, {dataset} version {found['version']},"), found


def require_champion(dataset: str) -> dict:
    """Like `champion`. Raises InputError where there is none, UnavailableError where the store does not answer."""
    with mlflow_store.or_unavailable():
        found = champion(dataset)
    if found is None:
        raise InputError(
            f"there is no champion for {dataset} in {mlflow_store.shown_store()}: `make repro` trains and registers "
            "one, and where all is up to date `trainyard track` does"
        )
    return found


def load_version(dataset: str, number: str, called: str = "") -> "ServedEnsemble | ForeignModel":
    """A version of the dataset's model, in memory: a `ServedEnsemble`, or a `ForeignModel` used in the same way.

    Args:
        called: the model's name in a message.

    Raises:
        InputError: this project neither registered nor trusts it; then nothing of it is loaded.
        UnavailableError: its files cannot be downloaded or loaded.
    """
    copy = tempfile.TemporaryDirectory(prefix="trainyard-")
    with ExitStack() as until_loaded, loading(called or f"{dataset} version {number}"):
        until_loaded.enter_context(copy)
        folder, data = fetch(dataset, number, Path(copy.name))
        trusted_models.check(dataset, number, folder, data)
        if data:
            from flows.models.served_ensemble import ServedEnsemble

            return ServedEnsemble(data)
        model = ForeignModel(folder, copy)
        until_loaded.pop_all()
        return model


@contextmanager
def loading(called: str) -> Iterator[None]:
    """Turns any error while a model is loaded or predicts into an UnavailableError of one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # MLflow's, torch's or the model's own
        if our_mistake(error):
            raise
        raise UnavailableError(f"{called} cannot be loaded: {masking.sentence(error)}") from None


def fetch(dataset: str, number: str, place: Path) -> tuple[Path, Path | None]:
    """Downloads a version's model to a folder below `place`, without loading anything.

    Returns:
        The model's folder, and the folder in it that `served_ensemble` loads; None for a model of another kind.
    """
    client = mlflow_store.connect()
    import mlflow

    source = artifact_uri(client, dataset, number)
    refuse_other_server(source, f"{dataset} version {number}")
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{dataset}/{number}", dst_path=str(place))).resolve()
    (folder / "registered_model_meta").unlink(missing_ok=True)  # MLflow writes it with each download
    try:
        flavor = bounded_yaml.read(folder / "MLmodel")["flavors"]["python_function"]
    except InputError as error:  # not an InputError: the mistake is not this user's
        raise ValueError(str(error)) from None
    data = (folder / str(flavor.get("data", ""))).resolve()
    ours = flavor.get("loader_module") == registration.LOADER and data != folder and data.is_relative_to(folder)
    return folder, data if ours else None


def artifact_uri(client: "MlflowClient", dataset: str, number: str) -> str:
    """The URI of a version's files."""
    address = client.get_model_version_download_uri(dataset, number)
    if address.startswith("models:/"):
        return client.get_logged_model(address.removeprefix("models:/").strip("/")).artifact_location
    return address


def refuse_other_server(address: str, called: str) -> None:
    """Raises InputError for a URI on another server than the store's.

    Whoever may write to the store chooses the URI, and MLflow's client would send the store's password there.
    """
    parts, own = urlsplit(address), urlsplit(mlflow_store.store())
    if parts.scheme in ("http", "https", "mlflow-artifacts") and parts.netloc not in ("", own.netloc):
        raise InputError(
            f"{called} is not loaded: its files are on {printable(parts.hostname or parts.netloc)}, which is not the "
            f"server of {mlflow_store.shown_store()}"
        )


class ForeignModel:
    """A trusted model of another kind than this project's; MLflow runs its code.

    Args:
        folder: the model's folder.
        copy: the temporary folder that holds it, which is removed with this object.
    """

    def __init__(self, folder: Path, copy: tempfile.TemporaryDirectory) -> None:
        import mlflow

        self.copy, path, before = copy, list(sys.path), set(sys.modules)
        try:
            self.model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
        finally:
            # Two models may have modules of the same name: Python would give the second model those of the first.
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                    del sys.modules[name]
            sys.path[:] = path
        self.shape = tuple(self.model.metadata.get_input_schema().inputs[0].shape[1:])

    def predict(self, images: "np.ndarray") -> Any:
        return self.model.predict(images)
