"""Loads a registered ensemble: MLflow keeps a copy of this file in the model, which so needs nothing of this project.

A model's data folder holds, for each kind of network, network-<n>.pt2 (the exported program: its weights and uint8
images in, log-probabilities out) and weights-<n>.npz (those of all networks of the kind); vote.pt2 (log-probabilities
of all networks in, of the ensemble out) and ensemble.json (shape, class names, each network's program and weights, and
the SHA-256 of each file and of itself, by which a damaged model is refused).

Nothing is unpickled but tensors and plain values: a pickle of anything else could run code.
"""

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

BATCH = 1000


class ServedEnsemble:
    def __init__(self, folder: Path) -> None:
        card = read_card(folder)
        self.class_names, self.shape = card["class_names"], tuple(card["shape"])
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
        """The label and the probability of each class, one row per image.

        Args:
            images: uint8, N×H×W×C, of the shape that the ensemble was trained on.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            wanted = f"N×{'×'.join(map(str, self.shape))}"
            raise ValueError(f"images have to be uint8, {wanted}, not {images.dtype}, {images.shape}")
        parts = [self.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        probabilities = np.concatenate(parts) if parts else np.empty((0, len(self.class_names)))
        frame = pd.DataFrame(probabilities.astype(np.float64), columns=self.class_names)
        frame.insert(0, "label", [self.class_names[best] for best in probabilities.argmax(1)])
        return frame

    def run(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given = torch.tensor(images)
            return self.vote(torch.stack([program(state, given) for program, state in self.networks])).exp().numpy()


def read_card(folder: Path) -> dict:
    """ensemble.json. Raises ValueError where it, or a file that it names, is not what was written."""
    file = folder / "ensemble.json"
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        # None of either in a model from before there were digests. As lightning_modules/sealed.py writes it.
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


def load_program(file: Path):
    """An exported program as a module. Raises ValueError where there is more in it than tensors, plain values and the
    steps of the computation: torch would unpickle it, whatever it is."""
    with zipfile.ZipFile(file) as archive:
        parts = [name.split("/")[1:] for name in archive.namelist()]
        if len(set(archive.namelist())) < len(parts):
            raise ValueError(f"{file} has two parts of one name")
        for name, part in zip(archive.namelist(), parts):
            content = archive.read(name)
            if part[:2] == ["data", "sample_inputs"]:
                tensors_only(file, content)
            elif part[:1] == ["data"] and name.endswith("_config.json"):
                if any(entry["use_pickle"] for entry in json.loads(content)["config"].values()):
                    raise ValueError(f"{file} holds a pickle")
            elif part[:1] == ["data"] and not part[-1].startswith(("weight_", "tensor_")):
                raise ValueError(f"{file} holds {part[-1]}, which is no tensor")
    return torch.export.load(file).module()


def tensors_only(file: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise ValueError(f"{file} holds a pickle of more than tensors") from None


def _load_pyfunc(path: str) -> ServedEnsemble:
    return ServedEnsemble(Path(path))
