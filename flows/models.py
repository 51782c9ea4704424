"""Loads the members that train left in models/<dataset>/."""

import shutil
from collections.abc import Iterable

from flows import project
from lightning_modules.errors import InputError


def load(name: str, member: str) -> tuple[dict, list]:
    """The card of a trained member and a predictor for each of its replicas, as `weights.load` gives them.

    Raises:
        InputError: it is not trained.
    """
    from lightning_modules import weights  # torch: seconds

    folder = project.model_folder(name, member)
    try:
        return weights.load(folder)
    except FileNotFoundError:
        raise InputError(f"models/{name}/{member} does not exist: run dvc repro train@{member}") from None


def drop_all_but(name: str, members: Iterable[str]) -> None:
    """Removes the folders of members that params.yaml does not name any more. Stages depend on models/<dataset> as a
    whole, and what no clean checkout has would be part of what they were made from. DVC's cache keeps the weights."""
    for folder in project.model_folder(name, "").iterdir():
        if folder.name not in members and (folder / "member.json").is_file():
            shutil.rmtree(folder)
            print(f"models/{name}/{folder.name}: no member of params.yaml any more, removed (DVC's cache keeps it)")
