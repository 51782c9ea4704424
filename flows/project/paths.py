"""Paths: the project's root, its store and state, and the files that stages exchange."""

import contextlib
import functools
import os
from pathlib import Path

from flows.project import private_files
from flows.project.errors import InputError

SPLITS = ("validation", "test")


def root() -> Path:
    """The nearest folder, from the current one upwards, that holds params.yaml and dvc.yaml.

    Raises:
        InputError: there is no such folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise InputError(f"no params.yaml and dvc.yaml in {here} or above it: run this inside a Trainyard project")


def home() -> Path:
    """The folder with MLflow's store and the archives.

    It is the root. For a queued experiment, which DVC runs in a copy below `.dvc/tmp/exps` and then deletes, it is the
    project in which the experiment was queued.
    """
    return home_of(root())


def home_of(folder: Path) -> Path:
    """The `home` of the working copy in `folder`."""
    for parent in folder.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return folder


def state_folder() -> Path:
    """.trainyard: archives, timings, passwords, Prefect's own files. Git ignores it, and it is outside every DVC `out`.

    It is made here, closed to other users, whichever command needs it first.
    """
    folder = home() / ".trainyard"
    make_private(folder)
    return folder


@functools.cache  # once a process is enough
def make_private(folder: Path) -> None:
    with contextlib.suppress(OSError):  # in a read-only project whoever writes a file there reports it
        private_files.make_folder(folder)


def unfinished_folder(dataset: str) -> Path:
    """The state of interrupted trainings, by member. A queued experiment has its own: DVC may run two at once."""
    state = root() / ".trainyard"
    make_private(state)
    return state / "unfinished" / dataset


def data_folder(dataset: str) -> Path:
    """train_images.npy, train_labels.npy, test_*.npy, validation_indices.npy and dataset.json."""
    return root() / "data" / dataset


def incoming_folder() -> Path:
    """People's labelled images: <class>/<image file>."""
    return root() / "data" / "incoming"


def rejected_folder() -> Path:
    """Incoming images that were refused, and reasons.csv."""
    return root() / "data" / "rejected"


def checked_file() -> Path:
    """Written by stage `check` when params.yaml is valid."""
    return root() / "settings" / "checked"


def settings_file(dataset: str) -> Path:
    """The values and code that all trainings on the dataset depend on."""
    return root() / "settings" / f"{dataset}.json"


def code_file(stage: str) -> Path:
    """The digest of the code of a stage."""
    return root() / "settings" / f"{stage}.code"


def model_folder(dataset: str, member: str) -> Path:
    """weights.safetensors, member.json and history.csv."""
    return root() / "models" / dataset / member


def export_folder(dataset: str, member: str) -> Path:
    """weights.npz, data.npz and member.json, for other programs. Git ignores it, and it is outside every DVC `out`."""
    return root() / "exports" / dataset / member


def predictions_file(dataset: str, member: str, split: str) -> Path:
    """Log-probabilities as float32, replicas × images × classes."""
    return root() / "predictions" / dataset / f"{member}.{split}.npy"


def replica_scores_file(dataset: str) -> Path:
    """The scores of each replica, by member."""
    return root() / "predictions" / dataset / "scores.json"


def study_folder(name: str) -> Path:
    """What a study found: verdicts.md, tables, and the figures as Vega-Lite."""
    return root() / "studies" / "results" / name


def study_figures(name: str) -> Path:
    """The figures of a study as SVG, and nothing else: `dvc plots` shows all that lies there."""
    return root() / "studies" / "figures" / name


def member_metrics_file(dataset: str, member: str) -> Path:
    """Means and deviations over the member's replicas. One file a member, so that `dvc metrics show` has a row each."""
    return root() / "metrics" / dataset / "members" / f"{member}.json"


def ensemble_metrics_file(dataset: str) -> Path:
    return root() / "metrics" / dataset / "ensemble.json"


def ensemble_file(dataset: str) -> Path:
    """What the ensemble is made of; see `flows.ensembles.record`."""
    return root() / "ensembles" / f"{dataset}.json"


def plots_folder(dataset: str) -> Path:
    return root() / "plots" / dataset


def drift_folder(dataset: str) -> Path:
    """drift.json and drift.png of the last drift check."""
    return plots_folder(dataset) / "drift"


def seconds_file(dataset: str, member: str) -> Path:
    """The seconds that the training took on this machine. They differ every time, so they are no part of an `out`."""
    return state_folder() / "seconds" / dataset / f"{member}.json"


def shown(path: Path) -> Path:
    """A path for a person: relative to the project's root, where it is inside."""
    with contextlib.suppress(ValueError, InputError):
        return path.relative_to(root())
    return path


def refuse_links(*names: str) -> None:
    """Refuses a project in which one of these folders is a link: DVC would find out only after a stage's work.

    Raises:
        InputError: a folder, or one above it in the project, is a link.
    """
    for name in names:
        place = root() / name
        for folder in (place, *place.parents):
            if folder == root():
                break
            if folder.is_symlink():
                link = shown(folder)
                raise InputError(
                    f"{link} is a link to {os.path.realpath(folder)}, and DVC takes no results from behind a link: "
                    f"put a folder in its place (rm {link}; mkdir {link}), and for the room of the other disk, move "
                    f"DVC's cache there (dvc cache dir {os.path.realpath(folder)}/dvc-cache; "
                    "dvc config cache.type symlink)"
                )
