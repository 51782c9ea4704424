"""Writes models/<dataset>/<member>/: weights, card and history."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from flows.project import file_io

if TYPE_CHECKING:
    from lightning_modules.fit import Fitted


def about(seed: int, result: "Fitted") -> dict:
    """The entry of a replica in member.json."""
    from lightning_modules import weights

    best = result.history[result.best_epoch - 1]
    return {
        "seed": seed,
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        **{name: value for name, value in best.items() if name.startswith("validation_")},
        "weights_sha256": weights.digest(result.state),
    }


def write(target: Path, card: dict, seeds: list[int], fitted: "list[Fitted]") -> dict:
    """Writes the folder whole or not at all: DVC takes whatever is in models/<dataset> for results.

    Args:
        card: the training's, see `Resolved.card`.

    Returns:
        The content of member.json: the card with history_sha256, and with `replicas`, an entry for each.
    """
    from flows.data import plain_arrays
    from lightning_modules import weights

    temporary = target.parents[1] / f".{target.parent.name}.{target.name}.unfinished"
    with file_io.whole_folder(target, temporary):
        write_history(temporary / "history.csv", [result.history for result in fitted])
        trained = card | {
            "replicas": [about(seed, result) for seed, result in zip(seeds, fitted, strict=True)],
            "history_sha256": plain_arrays.file_sha256(temporary / "history.csv"),
        }
        weights.save(temporary, trained, [result.state for result in fitted])
    return trained


def write_history(path: Path, histories: list[list[dict]]) -> None:
    rows = [{"replica": number, **row} for number, history in enumerate(histories) for row in history]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
