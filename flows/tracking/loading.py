"""Loads registered models, after checking that this project trusts them and that they are what was registered."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from flows.project.errors import InputError, UnavailableError, our_mistake
from flows.tracking import mlflow_store, registration, registry, trusted_models
from flows.untrusted import bounded_yaml, masking
from flows.untrusted.escaping import printable


def champion(dataset: str) -> dict | None:
    """Name, version, run_id, alias and tags of the dataset's champion, or None.

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


def load_champion(dataset: str):
    """The champion, as `load_version` has it, and its card.

    Raises:
        InputError: there is no champion, or it may not be loaded: see `trusted_models`.
        UnavailableError: the store does not answer, or the champion cannot be loaded.
    """
    found = champion_or_refuse(dataset)
    return load_version(dataset, found["version"], f"the champion, {dataset} version {found['version']},"), found


def champion_or_refuse(dataset: str) -> dict:
    """What `champion` finds. Raises InputError where there is none, UnavailableError where the store is away."""
    try:
        found = champion(dataset)
    except Exception as error:  # each kind of store, and each plugin, fails in a way of its own
        if our_mistake(error):
            raise
        raise UnavailableError(
            f"MLflow at {mlflow_store.shown_store()} cannot be used: {masking.sentence(error)}"
        ) from None
    if found is None:
        raise InputError(
            f"there is no champion for {dataset} in {mlflow_store.shown_store()}: `make repro` trains and registers "
            "one, and where all is up to date `trainyard track` does"
        )
    return found


def load_version(dataset: str, number: str, called: str = ""):
    """A version of the dataset's model, in memory: a `ServedEnsemble`, or for one of another kind that is trusted, what
    has its `predict` and `shape`.

    Args:
        called: what it is to a person, in a message.

    Raises:
        InputError: this project neither registered nor trusts it; nothing of it is read then.
        UnavailableError: its files cannot be had, or cannot be loaded.
    """
    copy = tempfile.TemporaryDirectory(prefix="trainyard-")
    with ExitStack() as until_loaded, loading(called or f"{dataset} version {number}"):
        until_loaded.enter_context(copy)
        folder, data = fetch(dataset, number, Path(copy.name))
        trusted_models.check(dataset, number, folder, data)
        if data:
            from flows.models.served_ensemble import ServedEnsemble

            return ServedEnsemble(data)
        model = Foreign(folder, copy)
        until_loaded.pop_all()
        return model


@contextmanager
def loading(called: str) -> Iterator[None]:
    """Makes a sentence of what goes wrong while a model is loaded or asked, whoever made it and however long ago."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # MLflow's, torch's or the model's own
        if our_mistake(error):
            raise
        raise UnavailableError(f"{called} cannot be loaded: {masking.sentence(error)}") from None


def fetch(dataset: str, number: str, place: Path) -> tuple[Path, Path | None]:
    """Copies a version's model to below a place, without looking into it.

    Returns:
        Its folder, and the part of it that `served_ensemble` loads; None in a model that says it is loaded otherwise.
    """
    client = mlflow_store.connect()
    import mlflow

    source = files_of(client, dataset, number)
    refuse_elsewhere(source, f"{dataset} version {number}")
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{dataset}/{number}", dst_path=str(place))).resolve()
    (folder / "registered_model_meta").unlink(missing_ok=True)  # MLflow's, of this download
    try:
        flavor = bounded_yaml.read(folder / "MLmodel")["flavors"]["python_function"]
    except InputError as error:  # which would be one of this user
        raise ValueError(str(error)) from None
    data = (folder / str(flavor.get("data", ""))).resolve()
    ours = flavor.get("loader_module") == registration.LOADER and data != folder and data.is_relative_to(folder)
    return folder, data if ours else None


def files_of(client, dataset: str, number: str) -> str:
    """The address of a version's files."""
    address = client.get_model_version_download_uri(dataset, number)
    if address.startswith("models:/"):
        return client.get_logged_model(address.removeprefix("models:/").strip("/")).artifact_location
    return address


def refuse_elsewhere(address: str, called: str) -> None:
    """Raises InputError for the address of files that another server than the store's has. Whoever may write to the
    store chooses it, and MLflow's client would send the store's password there."""
    parts, own = urlsplit(address), urlsplit(mlflow_store.store())
    if parts.scheme in ("http", "https", "mlflow-artifacts") and parts.netloc not in ("", own.netloc):
        raise InputError(
            f"{called} is not loaded: its files are on {printable(parts.hostname or parts.netloc)}, which is not the "
            f"server of {mlflow_store.shown_store()}"
        )


class Foreign:
    """A trusted model of another kind than those that are registered here; its code is run by MLflow.

    Args:
        folder: with all that belongs to it.
        copy: what removes the folder when the model goes.
    """

    def __init__(self, folder: Path, copy: tempfile.TemporaryDirectory) -> None:
        import mlflow

        self.copy, path, before = copy, list(sys.path), set(sys.modules)
        try:
            self.model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
        finally:
            # Two models may bring code under one name: Python would give the second one the code of the first.
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                    del sys.modules[name]
            sys.path[:] = path
        self.shape = tuple(self.model.metadata.get_input_schema().inputs[0].shape[1:])

    def predict(self, images):
        return self.model.predict(images)
