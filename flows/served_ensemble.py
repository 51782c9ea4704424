"""Loads a registered ensemble: MLflow keeps a copy of this file in the model, which so needs nothing of this project.

A model's data folder holds ensemble.pt2 (the exported program: uint8 images in, log-probabilities out) and
ensemble.json (shape and class names).
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

BATCH = 1000


class ServedEnsemble:
    def __init__(self, folder: Path) -> None:
        card = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
        self.class_names, self.shape = card["class_names"], tuple(card["shape"])
        self.program = torch.export.load(folder / "ensemble.pt2").module()

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
            return self.program(torch.tensor(images)).exp().numpy()


def _load_pyfunc(path: str) -> ServedEnsemble:
    return ServedEnsemble(Path(path))
