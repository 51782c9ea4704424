"""A working copy of the project, to run another dataset or seed without touching params.yaml and dvc.lock.

The copy has its own params.yaml, dvc.lock and results. It shares the rest: code and sources by symbolic links, DVC's
cache by DVC's configuration, and MLflow's store since it lies in the folder of DVC's experiments (`paths.home`). It is
kept, so that an interrupted run goes on and nothing that is up to date runs again.
"""

import configparser
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from flows.graph import site_cache
from flows.params import params_file
from flows.project import file_io
from flows.project.private_files import is_private
from flows.untrusted import bounded_yaml

# Entries of the project's folder that a copy does not share: what stages write, dvc.yaml, and tools' own files.
OWN = {
    ".dvc", ".dvcignore", ".git", ".trainyard", ".venv", "data", "dvc.lock", "dvc.yaml", "ensembles", "metrics",
    "mlartifacts", "mlruns", "models", "params.yaml", "plots", "predictions", "reports", "settings",
}  # fmt: skip
CONFIG = ".dvc/config"  # includes the project's config.local, which may hold passwords of remotes
STORE = "mlflow.db"  # with its lock and journals
# Keys of DVC's configuration that are paths, relative to the folder of the configuration file.
PATHS = ("url", "dir", "keyfile", "credentialpath", "configpath", "cert_path", "key_path", "ssl_verify")


def folder(root: Path, name: str) -> Path:
    return root / ".dvc" / "tmp" / "exps" / "retrain" / name


def changed_params(root: Path, changes: Mapping[str, object]) -> dict:
    """The content of a copy's params.yaml: the project's with the changes. Raises InputError where it is invalid."""
    content = bounded_yaml.read(root / "params.yaml")
    if isinstance(content, dict):
        content |= changes
    params_file.parse(content)
    return content


def is_current(root: Path, name: str, changes: Mapping[str, object]) -> bool:
    """Whether the working copy exists and is as `make` would leave it. Writes nothing; raises like `make`."""
    content, copy = changed_params(root, changes), folder(root, name)
    if not copy.is_dir():
        return False
    found = {entry.name: entry.readlink() for entry in copy.iterdir() if entry.is_symlink()}
    return found == links(root) and all(is_written(copy, name, text) for name, text in texts(root, content).items())


def is_written(copy: Path, name: str, text: str) -> bool:
    """Whether a copy's own file has this text and, for CONFIG, is private."""
    file = copy / name
    return file.is_file() and file.read_text(encoding="utf-8") == text and (name != CONFIG or is_private(file))


def make(root: Path, name: str, changes: Mapping[str, object]) -> Path:
    """Makes the working copy of that name, or updates it to the project. Returns its folder.

    Args:
        changes: values of top-level keys of params.yaml: dataset, and seed where it differs.

    Raises:
        InputError: params.yaml with the changes is invalid.
    """
    content = changed_params(root, changes)
    site_cache.keep_private(root)  # before DVC's configuration is copied
    copy = folder(root, name)
    (copy / ".dvc").mkdir(parents=True, exist_ok=True)
    wanted = links(root)
    for entry in copy.iterdir():
        if entry.is_symlink() and wanted.get(entry.name) != entry.readlink():
            entry.unlink()
    for name, target in wanted.items():
        if not (copy / name).is_symlink():
            (copy / name).symlink_to(target)
    for name, text in texts(root, content).items():
        if name != CONFIG:
            file_io.write_if_changed(copy / name, text)
        elif not is_written(copy, name, text):
            file_io.write_private(copy / name, text.removesuffix("\n"))
    if (root / ".dvc" / "plots").is_dir():
        shutil.copytree(root / ".dvc" / "plots", copy / ".dvc" / "plots", dirs_exist_ok=True)
    return copy


def links(root: Path) -> dict[str, Path]:
    """The links of a copy to what it shares with the project: target by name."""
    return {entry.name: entry for entry in root.iterdir() if entry.name not in OWN and not entry.name.startswith(STORE)}


def texts(root: Path, content: dict) -> dict[str, str]:
    """The texts of a copy's own files, by path. `content` is that of its params.yaml."""
    described = {
        name: (root / name).read_text(encoding="utf-8")
        for name in ("dvc.yaml", ".dvcignore")
        if (root / name).is_file()
    }
    return described | {
        "params.yaml": yaml.safe_dump(content, sort_keys=False, allow_unicode=True),
        CONFIG: config(root / ".dvc"),
    }


def config(folder: Path) -> str:
    """The text of a DVC configuration for a copy, from those in the project's .dvc `folder`.

    With absolute paths, the project's cache, and without git.
    """
    found = configparser.RawConfigParser()
    found.read([folder / "config", folder / "config.local"], encoding="utf-8")
    for section in ("core", "cache"):
        if not found.has_section(section):
            found.add_section(section)
    for section in found.sections():
        for key in PATHS:
            value = found.get(section, key, fallback="")
            if value and "://" not in value and not value.startswith("~") and value.lower() not in ("true", "false"):
                found.set(section, key, os.path.normpath(folder / value))
    if not found.get("cache", "dir", fallback=""):
        found.set("cache", "dir", str(folder / "cache"))
    found.set("core", "no_scm", "true")
    sections = [
        "\n".join([f"[{name}]", *(f"    {key} = {value}" for key, value in found.items(name))])
        for name in found.sections()
    ]
    return "\n".join(sections) + "\n"
