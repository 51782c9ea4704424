"""The digest by which the registry knows an ensemble."""

import csv
import hashlib
import json
from collections.abc import Iterable

from flows.data import dataset
from flows.graph import healing
from flows.models import measurements, trained_members
from flows.params.params_file import Params
from flows.project import file_io, paths
from lightning_modules.errors import InputError


def digest_of(method: str, weights: list[float] | None, cards: Iterable[dict], test_sha256: str) -> str:
    """Of all that makes an ensemble: the way to vote, its weights if it has some, the networks by their members' cards,
    and the test data."""
    networks = [replica["weights_sha256"] for card in cards for replica in card["replicas"]]
    made_of = {"method": method, "weights": weights, "networks": networks, "test": test_sha256}
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def digest_here(params: Params) -> str:
    """That of the ensemble whose files lie here, by which the registry knows it.

    Raises:
        InputError: there is none.
    """
    name = params.dataset
    try:
        method = measurements.ensemble_metrics(name)["method"]
        weights = vote_weights(name) if method == "weighted_vote" else None
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run dvc repro ensemble") from None
    cards = [trained_members.card(name, member) for member in params.members]
    return digest_of(method, weights, cards, dataset.read_card(name)["test_sha256"])


def vote_weights(name: str) -> list[float]:
    """Those that were fitted, by network. Raises DamagedError, and what opening a file raises."""
    path = paths.plots_folder(name) / "ensemble" / "weights.csv"
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [float(row["weight"]) for row in csv.DictReader(file)]
        except (ValueError, KeyError, TypeError):
            raise file_io.damaged(path, "is damaged", healing.heal(path, "ensemble")) from None
