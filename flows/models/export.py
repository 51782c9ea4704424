"""Exports an ensemble as programs that torch runs without this project; `served_ensemble` loads them.

Networks that differ only in their weights share one program, with their weights beside it. Making and loading a program
for each network would take longer than training a small network.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flows.data import plain_arrays
from flows.project import file_io
from lightning_modules import sealed

IMAGES = torch.export.Dim("images", min=1)


class Program:
    """A network without its weights: (state, images N×H×W×C) to predictions, of classes log-probabilities N×classes.

    Args:
        predictor: see `weights.Predictor`.
        probe: example images, with which it is exported.
    """

    def __init__(self, predictor: nn.Module, probe: Tensor) -> None:
        class Stateless(nn.Module):
            def forward(self, state: dict[str, Tensor], images: Tensor) -> Tensor:
                return torch.func.functional_call(predictor, state, (images,))

        state = dict(predictor.state_dict())
        self.exported = torch.export.export(
            Stateless().eval(), (state, probe), dynamic_shapes=(dict.fromkeys(state), {0: IMAGES}), strict=False
        )
        self.run = self.exported.module()
        self.states: list[dict[str, Tensor]] = []

    def does_as(self, predictor: nn.Module, probe: Tensor) -> bool:
        return torch.allclose(self.run(dict(predictor.state_dict()), probe), predictor(probe), rtol=1e-4, atol=1e-5)

    def save(self, folder: Path, number: int) -> None:
        torch.export.save(self.exported, folder / f"network-{number}.pt2")
        stacked = {name: torch.stack([state[name] for state in self.states]).numpy() for name in self.states[0]}
        np.savez(folder / f"weights-{number}.npz", allow_pickle=False, **stacked)


def structure(network: nn.Module) -> str:
    """A network's modules, and names, shapes and types of its tensors, as text; without the values of its weights."""
    plain = (str, int, float, bool, tuple, type(None))
    modules = [
        (name, type(module), [(key, value) for key, value in vars(module).items() if isinstance(value, plain)])
        for name, module in network.named_modules()
    ]
    return repr((modules, [(name, tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()]))


@torch.inference_mode()
def export(
    predictors: list[nn.Module], vote: nn.Module, shape: list[int], class_names: list[str], folder: Path,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Writes network-<n>.pt2 and weights-<n>.npz for each kind of network, vote.pt2, and the card ensemble.json.

    Args:
        predictors: see `weights.Predictor`.
        vote: maps predictions, networks × images × ..., to images × ...; see `ensembles.Combiner`.
        shape: height, width and channels of an image.
        about: see `ensembles.record.ABOUT`; nothing for classes of uint8 images.
    """
    # More than one image: a batch of one would be frozen into the program.
    generator = torch.Generator().manual_seed(0)
    if about.get("dtype", "uint8") == "uint8":
        probe = torch.randint(256, (8, *shape), dtype=torch.uint8, generator=generator)
    else:
        probe = torch.randn(8, *shape, generator=generator)
    programs: list[Program] = []
    alike: dict[str, list[int]] = {}
    places = []
    for predictor in predictors:
        state = predictor.state_dict()
        # A description may miss a value that a module computes with, so a program is tried before it is shared.
        candidates = alike.setdefault(structure(predictor), [])
        number = next((number for number in candidates if programs[number].does_as(predictor, probe)), None)
        if number is None:
            number = len(programs)
            programs.append(Program(predictor, probe))
            candidates.append(number)
        places.append([number, len(programs[number].states)])
        programs[number].states.append(state)
    for number, program in enumerate(programs):
        program.save(folder, number)
    stacked = predictors[0](probe)[None, :2].repeat_interleave(len(predictors), 0)
    exported = torch.export.export(vote.eval(), (stacked,), dynamic_shapes=({1: IMAGES},), strict=False)
    torch.export.save(exported, folder / "vote.pt2")
    card = {
        "shape": shape, "class_names": class_names, "programs": len(programs), "networks": places,
        **about,
        "files": {file.name: plain_arrays.file_sha256(file) for file in sorted(folder.iterdir())},
    }  # fmt: skip
    file_io.write_json(folder / "ensemble.json", sealed.sealed(card))
