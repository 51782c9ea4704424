"""Rows of measurements in .csv files, from which a champion predicts that was trained on measurements."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.params.sections import Limits
from flows.project.errors import InputError, quoted
from flows.untrusted import plain_files
from flows.untrusted.escaping import printable

if TYPE_CHECKING:
    from flows.models.served_ensemble import ServedEnsemble

SUFFIX = ".csv"


def read(file: Path, features: Sequence[str], limits: Limits) -> list[list[float]]:
    """The rows of a .csv file, each with the features in their order. Other columns are ignored.

    Raises:
        InputError: the file cannot be read, lacks a column or has a value that is no number; the message continues the
            file's name.
    """
    with plain_files.opened(file, limits.array_bytes, key="limits.array_bytes") as stream:
        lines = csv.reader(io.StringIO(stream.read().decode("utf-8-sig", "replace"), newline=""))
        head = [name.strip() for name in next(lines, [])]
        if missing := [name for name in features if name not in head]:
            raise InputError(
                f"has no column {', '.join(missing)}: its first line has to name {', '.join(features)}, in any order"
            )
        places = [head.index(name) for name in features]
        rows = []
        for line in lines:
            if line:
                rows.append([number(line, place, name, lines.line_num) for place, name in zip(places, features)])
    if not rows:
        raise InputError("has no rows below its first line")
    return rows


def number(line: Sequence[str], place: int, name: str, at: int) -> float:
    given = line[place].strip() if place < len(line) else ""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"has {quoted(given)} as {name} in line {at}, where a number has to be")
    return value


def answers(model: "ServedEnsemble", about: dict, files: Sequence[Path], limits: Limits) -> Iterator[dict]:
    """A dict for each row: file, row (from 1), target (its name), prediction and model; for a file that cannot be used
    file, label (None) and problem."""
    import numpy as np

    for file in files:
        name = printable(str(file))
        try:
            rows = read(file, model.features, limits)
        except InputError as error:
            yield {"file": name, "label": None, "problem": f"{name} {error}"}
            continue
        frame = model.predict(np.array(rows, np.float32).reshape(-1, *model.shape))
        for row, value in enumerate(frame[model.target].tolist(), 1):
            yield {"file": name, "row": row} | prediction(model, value, about)


def prediction(model: "ServedEnsemble", value: float, about: dict) -> dict:
    """What is told of a number that is predicted."""
    return {"target": model.target, "prediction": value, "model": f"{about['name']} version {about['version']}"}
