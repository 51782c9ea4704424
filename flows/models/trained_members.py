"""Loads trained members from models/<dataset>/, after checking that each file is as stage train wrote it."""

import csv
import io
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flows.data import dataset
from flows.graph import healing
from flows.project import file_io, paths
from flows.project.errors import DamagedError, InputError, sentence
from lightning_modules import sealed


def load(name: str, member: str) -> tuple[dict, list]:
    """The card of a trained member and a predictor for each of its replicas, as from `weights.load`.

    Raises:
        InputError: it is not trained, or a file is damaged; the message says how to repair it.
    """
    from lightning_modules import weights  # torch: seconds

    with reading(name, member):
        return weights.load(paths.model_folder(name, member))


def card(name: str, member: str) -> dict:
    """The card of a trained member, member.json. Raises InputError like `load`."""
    file = paths.model_folder(name, member) / "member.json"
    with reading(name, member):
        return sealed.opened(file_io.read_json(file, "replicas"), file)


def history(name: str, member: str) -> list[dict[str, str]]:
    """The rows of a trained member's history.csv. Raises InputError like `load`."""
    file = paths.model_folder(name, member) / "history.csv"
    expected = card(name, member).get("history_sha256")
    with reading(name, member):
        content = file.read_bytes()
        if expected and dataset.sha256(content) != expected:
            raise DamagedError(file, "is not what member.json says (changed or damaged)")
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8", "replace"), newline="")))
        if not rows or not {"replica", "epoch"} <= rows[0].keys():
            raise DamagedError(file, "has no rows (emptied or damaged)")
    return rows


@contextmanager
def reading(name: str, member: str) -> Iterator[None]:
    """Turns errors about missing or damaged files into InputErrors that say what to run."""
    try:
        yield
    except FileNotFoundError:
        raise not_trained(name, member) from None
    except DamagedError as error:
        file = paths.root() / error.file
        heal = healing.heal(file, f"train@{member}")
        raise DamagedError(paths.shown(file), f"{error.reason}: {heal}") from None
    except InputError:
        raise
    # What torch raises for weights, and Python for a recipe, that do not fit the network.
    except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = sentence(error, 100)
        raise InputError(
            f"models/{name}/{member} is of another version ({why}): run dvc repro --force train@{member}"
        ) from None


def check(name: str, members: Iterable[str]) -> None:
    """Raises InputError where a member is not trained. To be called before work on any of them starts."""
    for member in members:
        folder = paths.model_folder(name, member)
        if not ((folder / "member.json").is_file() and (folder / "weights.safetensors").is_file()):
            raise not_trained(name, member)


def not_trained(name: str, member: str) -> InputError:
    return InputError(f"models/{name}/{member} does not exist: run dvc repro train@{member}")


def drop_all_but(name: str, members: Iterable[str]) -> None:
    """Removes the folders of members that params.yaml no longer names. DVC's cache keeps their weights.

    Stages depend on models/<dataset> as a whole: such a folder, which a clean checkout lacks, would become part of it.
    """
    for folder in paths.model_folder(name, "").iterdir():
        if folder.name not in members and (folder / "member.json").is_file():
            shutil.rmtree(folder)
            print(f"models/{name}/{folder.name}: no member of params.yaml any more, removed (DVC's cache keeps it)")
