"""The tables that `dvc plots` draws: one row a point, with the name of its network."""

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from flows.untrusted.escaping import in_plot

if TYPE_CHECKING:
    from torch import Tensor


def curves(member: str, history: Iterable[dict]) -> Iterable[dict]:
    """The rows of a member's history.csv, with the replica's name as `network`."""
    for row in history:
        yield {"network": f"{member}-{row.pop('replica')}", **row}


def per_class(network: str, measures: dict[str, dict[str, float]]) -> list[dict]:
    return [{"network": network, "class": in_plot(name), **scores} for name, scores in measures.items()]


def confusion(network: str, log_probabilities: "Tensor", labels: "Tensor", class_names: list[str]) -> Iterable[dict]:
    """One row an image, which the plot's template counts."""
    names = [in_plot(name) for name in class_names]
    for actual, predicted in zip(labels.tolist(), log_probabilities.argmax(1).tolist()):
        yield {"network": network, "actual": names[actual], "predicted": names[predicted]}


class Tables:
    """Writes the files <folder>/<table>.csv row by row: a thousand members' rows, one an image, do not fit into memory.

    Use it in a `with`, which closes the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = ExitStack()
        self.writers: dict[str, csv.DictWriter] = {}

    def __enter__(self) -> "Tables":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def add(self, table: str, rows: Iterable[dict]) -> None:
        """Adds rows to a table, whose columns are the keys of its first row."""
        for row in rows:
            if table not in self.writers:
                path = self.folder / f"{table}.csv"
                file = self.files.enter_context(path.open("w", newline="", encoding="utf-8"))
                self.writers[table] = csv.DictWriter(file, row.keys(), lineterminator="\n")
                self.writers[table].writeheader()
            self.writers[table].writerow(row)
