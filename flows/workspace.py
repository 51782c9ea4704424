"""A working copy of the project in which another dataset or seed is run, while params.yaml and dvc.lock stay.

The copy has a params.yaml, a dvc.lock and results of its own, and shares the rest: code and sources by symbolic
links, DVC's cache by its settings, and MLflow's store as an experiment of DVC's does (`flows.project.home`), below
whose folder it lies. It stays, so that an interrupted run goes on and nothing that is up to date runs again.
"""

import configparser
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from flows import params, project

# Of a project's folder, what is a copy's own: what stages write, what describes them, and what tools keep.
OWN = {
    ".dvc", ".dvcignore", ".git", ".trainyard", ".venv", "data", "dvc.lock", "dvc.yaml", "metrics", "mlartifacts",
    "mlruns", "models", "params.yaml", "plots", "predictions", "reports", "settings",
}  # fmt: skip
STORE = "mlflow.db"  # with its lock and journals
# Settings of DVC that are paths, which it takes to be relative to the folder of their file.
PATHS = ("url", "dir", "keyfile", "credentialpath", "configpath", "cert_path", "key_path", "ssl_verify")


def make(root: Path, name: str, changes: Mapping[str, object]) -> Path:
    """The working copy of that name, brought up to date with the project.

    Args:
        changes: of params.yaml's top level: dataset, and seed where it is another.

    Raises:
        InputError: params.yaml with the changes is refused.
    """
    content = project.read_yaml(root / "params.yaml") | dict(changes)
    params.parse(content)
    copy = root / ".dvc" / "tmp" / "exps" / "retrain" / name
    (copy / ".dvc").mkdir(parents=True, exist_ok=True)
    for entry in copy.iterdir():
        if entry.is_symlink():
            entry.unlink()
    for entry in root.iterdir():
        if entry.name not in OWN and not entry.name.startswith(STORE):
            (copy / entry.name).symlink_to(entry)
    for name in ("dvc.yaml", ".dvcignore"):
        if (root / name).is_file():
            write_if_changed(copy / name, (root / name).read_text(encoding="utf-8"))
    write_if_changed(copy / "params.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    write_if_changed(copy / ".dvc" / "config", config(root / ".dvc"))
    if (root / ".dvc" / "plots").is_dir():
        shutil.copytree(root / ".dvc" / "plots", copy / ".dvc" / "plots", dirs_exist_ok=True)
    return copy


def write_if_changed(file: Path, text: str) -> None:
    """A file that is written anew is hashed anew by DVC."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def config(folder: Path) -> str:
    """DVC's settings of the project in `folder`, for use elsewhere: with absolute paths, its cache, and without git."""
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
