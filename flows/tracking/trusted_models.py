"""The registered models that this project may load: those it registered itself, and those its user trusts.

A model from MLflow may contain programs and code, and whoever may write to MLflow can replace ours. So this project
records the SHA-256 of the models it registers in .trainyard/registered/, where only this user can write, and looks it
up before it loads anything of a model.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.project.file_io import write_private
from flows.untrusted.escaping import printable

REGISTERED, TRUSTED = "registered", "trusted"


def record_file(dataset: str) -> Path:
    return paths.state_folder() / "registered" / f"{dataset}.json"


def record(dataset: str) -> dict[str, dict[str, dict]]:
    """The record: REGISTERED and TRUSTED, each with a note for each digest."""

    def check(content: dict) -> dict:
        return {kind: dict(content[kind]) for kind in (REGISTERED, TRUSTED)}

    return file_io.read_or_anew(record_file(dataset), check, {REGISTERED: {}, TRUSTED: {}})


@contextmanager
def record_for_update(dataset: str) -> Iterator[dict]:
    """Yields the record, to be changed, under a lock; saves it at the end."""
    from filelock import FileLock

    file = record_file(dataset)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(f"{file}.lock"):
        now = record(dataset)
        yield now
        write_private(file, json.dumps(now, indent=2))


def note(dataset: str, folder: Path) -> None:
    """Records that this project registers, or has registered, the files in a folder."""
    known = digest(folder)
    if known not in record(dataset)[REGISTERED]:
        with record_for_update(dataset) as now:
            now[REGISTERED][known] = {"noted_at": timestamp()}


def trust(dataset: str, version: str, folder: Path) -> str:
    """Records that a version from elsewhere may be loaded, as long as its files stay as they are in the folder.

    Returns their digest.
    """
    known = digest(folder)
    with record_for_update(dataset) as now:
        versions = {*now[TRUSTED].get(known, {}).get("versions", []), version}
        now[TRUSTED][known] = {"versions": sorted(versions), "noted_at": timestamp()}
    return known


def distrust(dataset: str, version: str) -> bool:
    """Removes the trust in a version. Returns whether it was trusted."""
    with record_for_update(dataset) as now:
        found = [known for known, about in now[TRUSTED].items() if version in about["versions"]]
        for known in found:
            del now[TRUSTED][known]
    return bool(found)


def check(dataset: str, version: str, folder: Path, data: Path | None) -> None:
    """Checks that a version may be loaded. Has to be called before anything of it is loaded.

    Args:
        folder: the model's folder.
        data: the folder in it that `served_ensemble` loads; None in a model without one.

    Raises:
        InputError: the version was neither registered by this project nor trusted.
    """
    known = record(dataset)
    if data and data.is_dir() and digest(data) in known[REGISTERED]:
        return
    if known[TRUSTED] and digest(folder) in known[TRUSTED]:
        return
    raise InputError(
        f"{dataset} version {version} is not loaded: its files are none that this project registered "
        f"({paths.shown(record_file(dataset))} has the digests), and loading a model can run code of whoever made "
        f"it. Where it was made here, `trainyard track` notes it; where you know who made it, such as this project "
        f"before there were digests, `trainyard trust {version}` lets it in"
    )


def digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in a folder and its subfolders.

    Raises:
        InputError: there is something other than files and folders, such as a link, whose target has no digest.
    """
    whole, left, files = hashlib.sha256(), [folder], []
    while left:
        for entry in os.scandir(left.pop()):
            if entry.is_dir(follow_symlinks=False):
                left.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                files.append(Path(entry.path))
            else:
                raise InputError(f"{printable(entry.name)} in a registered model is no file: it is not loaded")
    for file in sorted(files, key=lambda file: os.fsencode(file.relative_to(folder))):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{json.dumps(file.relative_to(folder).as_posix())} {content}\n".encode())
    return whole.hexdigest()


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
