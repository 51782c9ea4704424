"""Where things lie: the project's root, its store and state, and the files that stages exchange."""

import contextlib
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows import private_file
from lightning_modules.errors import DamagedError, InputError, sentence

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
    """Git-ignored, outside every DVC `out`: archives, timings, passwords, Prefect's own files. Others see nothing of
    it, whoever makes it first."""
    folder = home() / ".trainyard"
    make_private(folder)
    return folder


@functools.cache  # once a process will do
def make_private(folder: Path) -> None:
    with contextlib.suppress(OSError):  # where nothing can be written, who needs a file there says so
        private_file.make_folder(folder)


def unfinished_folder(dataset: str) -> Path:
    """What interrupted trainings need to go on, by member. A queued experiment has its own: DVC may run two at once."""
    state = root() / ".trainyard"
    make_private(state)
    return state / "unfinished" / dataset


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


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write under, renamed at the end: a file that exists is whole. Where writing fails, because
    the disk is full, say, nothing stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(target: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """Makes an empty folder to write into, which takes the place of `target` at the end: that is there whole, or as it
    was. Where writing fails nothing stays.

    Args:
        unfinished: the folder, on the same disk; by default beside `target`.
    """
    unfinished = unfinished or target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if target.exists():  # DVC removes it before it runs a stage; by hand it is still there
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with whole(path) as temporary:
        # Bytes of a file's name that are no UTF-8 are lone surrogates to Python, which become JSON's own escapes here.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_if_changed(path: Path, text: str) -> None:
    """A file that is written anew is hashed anew by DVC. Whole or not at all."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Returns when a file, and its name in its folder, would be there after a power failure."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_yaml(path: Path) -> Any:
    """Raises InputError where it is no YAML, and what reading a file raises."""
    import yaml

    try:
        # PyYAML's loader in Python takes four times as long as that in C, which not every build of it has.
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {sentence(error, None)}") from None


def read_json(path: Path, *keys: str, heal: str = "") -> dict:
    """A JSON file with these keys.

    Args:
        heal: what to do about a damaged one; goes on after a colon.

    Raises:
        DamagedError: it is none, because it was emptied or cut off, say.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        said = "it is empty" if not path.stat().st_size else sentence(error)
        raise damaged(path, f"is damaged ({said})", heal) from None
    if not isinstance(content, dict):
        raise damaged(path, f"is damaged (it holds {type(content).__name__} where names and values belong)", heal)
    if missing := [key for key in keys if key not in content]:
        raise damaged(path, f"is damaged (it has no {', '.join(missing)})", heal)
    return content


def damaged(path: Path, reason: str, heal: str = "") -> DamagedError:
    return DamagedError(shown(path), f"{reason}: {heal}" if heal else reason)


def shown(path: Path) -> Path:
    """A path for a person to read: from the project's root, where it lies in there."""
    with contextlib.suppress(ValueError, InputError):
        return path.relative_to(root())
    return path


def member_metrics(dataset: str, member: str) -> dict:
    """What evaluate measured. Raises like `read_json`."""
    keys = ("parameters", "replicas", "validation", "test")
    # DVC does not keep metrics in its cache, and so sees by itself that a file changed.
    return read_json(member_metrics_file(dataset, member), *keys, heal="run dvc repro evaluate")


def ensemble_metrics(dataset: str) -> dict:
    """What ensemble measured. Raises like `read_json`."""
    keys = ("method", "test", "networks", "parameters")
    return read_json(ensemble_metrics_file(dataset), *keys, heal="run dvc repro ensemble")


def read_or_anew(path: Path, check: Callable[[Any], Any], anew: Any, *, say: bool = True) -> Any:
    """What `check` makes of a JSON file's content; `anew` where there is none, or what is there is damaged, which is
    said: for notes that can be made again."""
    try:
        return check(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return anew
    except (ValueError, TypeError, KeyError, AttributeError):
        if say:
            warn(f"{shown(path)} is damaged, and made anew")
        return anew


def warn(message: str) -> None:
    print(f"trainyard: {message}", file=sys.stderr, flush=True)


def refuse_links(*names: str) -> None:
    """Refuses a project of which one of these folders is a link, which DVC finds out only after a stage's work.

    Raises:
        InputError: one is.
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
