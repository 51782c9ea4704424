"""Runs optimizers over a surface, each with the learning rate that suits it best.

They are those of `lightning_modules.optimizers`, built as for a network. Untuned rivals would say nothing: each tries
the same grid of learning rates, and its best path is the one that counts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from flows.project.errors import InputError, unknown
from flows.race.surfaces import Surface
from lightning_modules import names, optimizers

RATES = tuple(10 ** (power / 2) for power in range(-8, 3))  # half decades from 0.0001 to 10
NEAR = 1e-3  # of the start's height above the minimum: as low as that counts as being there
MOST = 8  # optimizers in a figure: more colours cannot be told apart
DEFAULT = ("sgd", "momentum", "nag", "adagrad", "rmsprop", "adam", "adamax")


@dataclass(frozen=True)
class Path:
    """The way of one optimizer.

    Attributes:
        rate: its learning rate, the best of `RATES`.
        places: x and y, from the start; it ends early where the next step is infinite.
        arrived: the first step from which on it stays low enough, see `NEAR`; infinite for none.
        height: above the minimum, at the end; infinite where it ends early.
    """

    optimizer: str
    rate: float
    places: tuple[tuple[float, float], ...]
    arrived: float
    height: float


def known(given: Sequence[str]) -> list[str]:
    """The names, each once.

    Raises:
        InputError: one is unknown or cannot race, there are none, or too many for a figure.
    """
    found = list(dict.fromkeys(given))
    for name in found:
        if name not in names.OPTIMIZERS:
            raise unknown("optimizer", name, names.OPTIMIZERS)
        if name == "muon":
            raise InputError("muon cannot race: it turns matrices, and a place on a surface is a vector of two numbers")
    if not 1 <= len(found) <= MOST:
        raise InputError(f"{len(found)} optimizers cannot race: 1 to {MOST} can, as many as have colours of their own")
    return found


def race(surface: Surface, given: Sequence[str], steps: int, done: Callable[[], None] = lambda: None) -> list[Path]:
    """The paths of the optimizers, the first to arrive first, then the lowest.

    Args:
        steps: of each.
        done: called after each optimizer.

    Raises:
        InputError: see `known`.
    """
    found = []
    for name in known(given):
        found.append(min(paths(surface, name, steps), key=merit))
        done()
    return sorted(found, key=merit)


def merit(one: Path) -> tuple[float, float]:
    """Less is better."""
    return one.arrived, one.height


def paths(surface: Surface, name: str, steps: int) -> list[Path]:
    """The paths of one optimizer, at each of `RATES`, all side by side: places that do not know of each other, each in
    a parameter group with its own learning rate."""
    places = [torch.nn.Parameter(torch.tensor(surface.start, dtype=torch.float64)) for _ in RATES]
    groups = [{"params": [place], "lr": rate} for place, rate in zip(places, RATES)]
    optimizer = optimizers.build({"name": name, "lr": RATES[0], "weight_decay": 0.0}, groups)
    way = [torch.stack([place.detach().clone() for place in places])]
    for _ in range(steps):
        optimizer.zero_grad()
        now = torch.stack(list(places))
        surface.height(now[:, 0], now[:, 1]).sum().backward()
        optimizer.step()
        way.append(torch.stack([place.detach().clone() for place in places]))
    whole = torch.stack(way)  # steps × rates × 2
    heights = surface.height(whole[..., 0], whole[..., 1]) - surface.least
    return [
        path(name, rate, whole[:, number].tolist(), heights[:, number].tolist()) for number, rate in enumerate(RATES)
    ]


def path(name: str, rate: float, places: list[list[float]], heights: list[float]) -> Path:
    """The path until it is infinite; arrived is whoever stays low until the end, not who passes by."""
    finite = next((step for step, above in enumerate(heights) if not math.isfinite(above)), len(heights))
    ended = finite < len(heights)
    last_above = max((step for step, above in enumerate(heights) if not above <= NEAR * heights[0]), default=-1)
    arrived = last_above + 1 if last_above + 1 < len(heights) else math.inf
    height = math.inf if ended else heights[-1]
    return Path(name, rate, tuple((x, y) for x, y in places[:finite]), arrived, height)
