"""Where things lie: the project's root, its store and state, and the files that stages exchange."""

import json
import os
from pathlib import Path
from typing import Any

from lightning_modules.errors import InputError

SPLITS = ("validation", "test")


def root() -> Path:
    """The nearest folder from here upwards that holds params.yaml and dvc.yaml.

    Raises:
        InputError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise InputError(f"no params.yaml and dvc.yaml in {here} or above it: run this inside a Trainyard project")


def home() -> Path:
    """The folder that keeps MLflow's store and the archives: the root, or for a queued experiment,
    which DVC runs in a copy below `.dvc/tmp/exps` and then deletes, the project it was queued in."""
    return home_of(root())


def home_of(folder: Path) -> Path:
    """The same of a working copy other than this one."""
    for parent in folder.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return folder


def state_folder() -> Path:
    """Git-ignored, outside every DVC `out`: archives, timings, Prefect's own files."""
    return home() / ".trainyard"


def unfinished_folder(dataset: str) -> Path:
    """What interrupted trainings need to go on, by member. A queued experiment has its own: DVC may run two at once."""
    return root() / ".trainyard" / "unfinished" / dataset


def data_folder(dataset: str) -> Path:
    """train_images.npy, train_labels.npy, test_*.npy, validation_indices.npy and dataset.json."""
    return root() / "data" / dataset


def checked_file() -> Path:
    """Says that params.yaml was found valid."""
    return root() / "settings" / "checked"


def settings_file(dataset: str) -> Path:
    """What all trainings on the dataset depend on alike."""
    return root() / "settings" / f"{dataset}.json"


def model_folder(dataset: str, member: str) -> Path:
    """weights.safetensors, member.json and history.csv."""
    return root() / "models" / dataset / member


def predictions_file(dataset: str, member: str, split: str) -> Path:
    """Log-probabilities as float32, replicas × images × classes."""
    return root() / "predictions" / dataset / f"{member}.{split}.npy"


def replica_scores_file(dataset: str) -> Path:
    """The scores of each replica, by member."""
    return root() / "predictions" / dataset / "scores.json"


def member_metrics_file(dataset: str, member: str) -> Path:
    """Means and deviations over the member's replicas; a file each, so that `dvc metrics show` has a row each."""
    return root() / "metrics" / dataset / "members" / f"{member}.json"


def ensemble_metrics_file(dataset: str) -> Path:
    return root() / "metrics" / dataset / "ensemble.json"


def plots_folder(dataset: str) -> Path:
    return root() / "plots" / dataset


def drift_folder(dataset: str) -> Path:
    """drift.json and drift.png of the last look at incoming images."""
    return plots_folder(dataset) / "drift"


def seconds_file(dataset: str, member: str) -> Path:
    """How long the training on this machine took. A time is never the same twice, so it is no part of an `out`."""
    return state_folder() / "seconds" / dataset / f"{member}.json"


def write_json(path: Path, content: object) -> None:
    """Writes under a temporary name and renames: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # Bytes of a file's name that are no UTF-8 are lone surrogates to Python, which become JSON's own escapes here.
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)


def write_if_changed(path: Path, text: str) -> None:
    """A file that is written anew is hashed anew by DVC."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Returns when a file, and its name in its folder, would be there after a power failure."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_yaml(path: Path) -> Any:
    """Raises yaml.YAMLError, and what reading a file raises."""
    import yaml

    # PyYAML's loader in Python takes four times as long as that in C, which not every build of it has.
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
