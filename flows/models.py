"""Loads the members that train left in models/<dataset>/."""

import shutil
from collections.abc import Iterable

from flows import project
from flows.foreign_text import printable
from lightning_modules.errors import InputError, sentence


def load(name: str, member: str) -> tuple[dict, list]:
    """The card of a trained member and a predictor for each of its replicas, as `weights.load` gives them.

    Raises:
        InputError: it is not trained, or its files are not those that the training wrote.
    """
    from lightning_modules import weights  # torch: seconds

    try:
        return weights.load(project.model_folder(name, member))
    except FileNotFoundError:
        raise not_trained(name, member) from None
    except InputError:
        raise
    except Exception as error:  # safetensors, JSON and torch each have kinds of their own for what is not as it was
        why = printable(sentence(error, 100))
        raise InputError(
            f"models/{name}/{member} is damaged, or of another version ({why}): run dvc repro --force train@{member}"
        ) from None


def check(name: str, members: Iterable[str]) -> None:
    """Raises InputError for a member that is not trained, before anything is done with the others."""
    for member in members:
        folder = project.model_folder(name, member)
        if not ((folder / "member.json").is_file() and (folder / "weights.safetensors").is_file()):
            raise not_trained(name, member)


def not_trained(name: str, member: str) -> InputError:
    return InputError(f"models/{name}/{member} does not exist: run dvc repro train@{member}")


def drop_all_but(name: str, members: Iterable[str]) -> None:
    """Removes the folders of members that params.yaml does not name any more. Stages depend on models/<dataset> as a
    whole, and what no clean checkout has would be part of what they were made from. DVC's cache keeps the weights."""
    for folder in project.model_folder(name, "").iterdir():
        if folder.name not in members and (folder / "member.json").is_file():
            shutil.rmtree(folder)
            print(f"models/{name}/{folder.name}: no member of params.yaml any more, removed (DVC's cache keeps it)")
