"""Loads a registered ensemble. MLflow keeps a copy of this file in the model, so that it does not need this project.

A model's data folder holds, for each kind of network, network-<n>.pt2 (the exported program: weights and images in,
predictions out, of classes log-probabilities) and weights-<n>.npz (the weights of all networks of the kind); vote.pt2
(predictions of all networks in, of the ensemble out); and ensemble.json (shape, class names, task, each network's
program and weights, the SHA-256 of each file and of itself, so that a damaged model is refused).

An exported program could run code of its own, by a pickle among other ways. So torch is given only its tensors and its
graph of torch's own operators.
"""

import hashlib
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

BATCH = 1000
# The files in the archive of an exported program, below its root.
PARTS = (
    r"models/model\.json", r"data/weights/(weight_\d+|model_weights_config\.json)", r"data/sample_inputs/model\.pt",
    r"data/constants/(tensor_\d+|model_constants_config\.json)", r"archive_(format|version)", "byteorder",
    r"\.data/(version|serialization_id)",
)  # fmt: skip
OPERATOR = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|getitem)|"
)
SYMBOL = r"Symbol\('\w+'(, (positive|integer|nonnegative)=True)*\)"
EXPRESSION = re.compile(
    rf"({SYMBOL}|Integer\(-?\d+\)|(Mul|Add|Pow|Max|Min|FloorDiv|Mod|Eq|Ne|Lt|Le|Gt|Ge)\(|[-\d(), ]|true|false)*"
)


class ServedEnsemble:
    def __init__(self, folder: Path) -> None:
        card = read_card(folder)
        self.class_names, self.shape = card["class_names"], tuple(card["shape"])
        self.task, self.dtype = card.get("task", "classification"), np.dtype(card.get("dtype", "uint8"))
        self.columns, self.features = columns(card), card.get("features", [])
        self.target = card.get("target", {}).get("name")  # what is predicted, where it is a number
        programs, weights = [], []
        for number in range(card["programs"]):
            programs.append(load_program(folder / f"network-{number}.pt2"))
            with np.load(folder / f"weights-{number}.npz", allow_pickle=False) as file:
                weights.append({name: torch.from_numpy(file[name]) for name in file.files})
        self.networks = [
            (programs[number], {name: stacked[row] for name, stacked in weights[number].items()})
            for number, row in card["networks"]
        ]
        self.vote = load_program(folder / "vote.pt2")

    def predict(self, images: np.ndarray, params: dict | None = None) -> pd.DataFrame:
        """What `columns` names, one row an image: the label and the probability of each class; a number; or a sequence
        as its classes one after another.

        Args:
            images: N×H×W×C, type and H×W×C as in training.
        """
        images = np.asarray(images)
        if images.dtype != self.dtype or images.shape[1:] != self.shape:
            wanted = f"N×{'×'.join(map(str, self.shape))}"
            raise ValueError(f"images have to be {self.dtype}, {wanted}, not {images.dtype}, {images.shape}")
        parts = [self.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        if self.task == "sequence":
            read = [self.sequence(steps) for part in parts for steps in part]
            return pd.DataFrame(read, columns=[name for name, _ in self.columns])
        numbers = np.concatenate(parts) if parts else np.empty((0, max(1, len(self.class_names))))
        if self.task == "regression":
            return pd.DataFrame(numbers.astype(np.float64), columns=[name for name, _ in self.columns])
        frame = pd.DataFrame(numbers.astype(np.float64), columns=self.class_names)
        frame.insert(0, "label", [self.class_names[best] for best in numbers.argmax(1)])
        return frame

    def sequence(self, steps: np.ndarray) -> tuple[str, float]:
        """The greedy decoding of steps × (classes + 1) probabilities, the blank last, and its probability."""
        best = steps.argmax(1)
        kept = [now for now, before in zip(best, [-1, *best]) if now not in (before, len(self.class_names))]
        return "".join(self.class_names[label] for label in kept), float(steps.max(1).prod())

    def run(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given = torch.tensor(images)
            found = self.vote(torch.stack([program(state, given) for program, state in self.networks]))
            return (found if self.task == "regression" else found.exp()).numpy()


def columns(card: dict) -> list[tuple[str, str]]:
    """The columns of an answer, each with MLflow's name of its type."""
    task = card.get("task", "classification")
    if task == "regression":
        return [(card["target"]["name"], "double")]
    if task == "sequence":
        return [("label", "string"), ("probability", "double")]
    return [("label", "string"), *((name, "double") for name in card["class_names"])]


def read_card(folder: Path) -> dict:
    """The content of ensemble.json. Raises ValueError where it, or a file that it names, was changed or damaged."""
    file = folder / "ensemble.json"
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        # As lightning_modules/sealed.py writes it. Older models have no digests.
        content = json.dumps({name: value for name, value in card.items() if name != "sha256"}, sort_keys=True)
    except (ValueError, AttributeError):
        raise ValueError(f"{file} is damaged") from None
    if "sha256" in card and card["sha256"] != hashlib.sha256(content.encode()).hexdigest():
        raise ValueError(f"{file} is not what was written to it (changed or damaged)")
    for name, expected in card.get("files", {}).items():
        with (folder / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            raise ValueError(f"{folder / name} is not what was written to it (changed or damaged)")
    return card


def load_program(file: Path) -> torch.nn.Module:
    """An exported program as a module.

    Raises:
        ValueError: it holds more than tensors and a graph of torch's own operators. Torch would unpickle that, evaluate
            it as a Python expression, or call whatever function it names.
    """
    parts = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            part = name.partition("/")[2]
            if part in parts:
                raise ValueError(f"{file} has two parts of one name")
            if not any(re.fullmatch(pattern, part) for pattern in PARTS):
                raise ValueError(f"{file} holds {part[:100]!r}, which is no part of a program that is exported here")
            parts[part] = archive.read(name)
    check_graph(file, json.loads(parts["models/model.json"]))
    for kind in ("weights", "constants"):
        for entry in json.loads(parts[f"data/{kind}/model_{kind}_config.json"])["config"].values():
            if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                raise ValueError(f"{file} holds a pickle")
    refuse_pickles(file, parts["data/sample_inputs/model.pt"])
    # Write a new archive: two readers could read the old one in two ways, and torch has to get what was checked.
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w", zipfile.ZIP_STORED) as archive:
        for part, content in parts.items():
            archive.writestr(f"program/{part}", content)
    checked.seek(0)
    # Guards are code too. `predict` checks the shape of its input instead.
    return torch.export.load(checked).module(check_guards=False)


def check_graph(file: Path, value: object) -> None:
    """Raises ValueError for an operator or expression in a graph that networks do not have."""
    if isinstance(value, list):
        for one in value:
            check_graph(file, one)
    elif isinstance(value, dict):
        for key, one in value.items():
            allowed = {"target": OPERATOR, "expr_str": EXPRESSION}.get(key)
            if allowed and isinstance(one, str) and not allowed.fullmatch(one):
                raise ValueError(f"{file} holds {one[:100]!r}, which is no {key} of a network")
            check_graph(file, one)


def refuse_pickles(file: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise ValueError(f"{file} holds a pickle of more than tensors") from None


def _load_pyfunc(path: str) -> ServedEnsemble:
    return ServedEnsemble(Path(path))
