"""The tables that `dvc plots` draws: one row per point, the network that it belongs to in each."""

import csv
from pathlib import Path


def curves(member: str, history: Path) -> list[dict]:
    """The rows of a member's history.csv, under the name of each replica."""
    with history.open(newline="", encoding="utf-8") as file:
        return [{"network": f"{member}-{row.pop('replica')}", **row} for row in csv.DictReader(file)]


def per_class(network: str, measures: dict[str, dict[str, float]]) -> list[dict]:
    return [{"network": network, "class": name, **scores} for name, scores in measures.items()]


def confusion(network: str, log_probabilities, labels, class_names: list[str]) -> list[dict]:
    """One row per image: the template counts them."""
    return [
        {"network": network, "actual": class_names[actual], "predicted": class_names[predicted]}
        for actual, predicted in zip(labels.tolist(), log_probabilities.argmax(1).tolist())
    ]


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
