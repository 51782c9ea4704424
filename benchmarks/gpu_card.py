"""Shared by the parts of the GPU's table: the device and its precision, a budget of seconds, and rows."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """The sizes of all parts: those of the goals, or tiny ones, to try the command on a CPU.

    Attributes:
        runs: trainings, each with another seed, of each recipe whose mean accuracy is measured.
        epochs_94, epochs_96, epochs_mnist: numbers of epochs to try; the next one only if the accuracy is not reached.
        steps: mini-batches per epoch when the time of a step is measured.
        counts: numbers of networks that train at once.
        networks: the networks that train at once, by name; for 28×28 images.
    """

    runs: int
    epochs_94: tuple[int, ...]
    epochs_96: tuple[int, ...]
    epochs_mnist: tuple[int, ...]
    batch_94: int
    batch_96: int
    batch_mnist: int
    widths_94: tuple[int, ...]
    widths_96: tuple[int, ...]
    widths_mnist: tuple[int, ...]
    steps: int
    batch_together: int
    counts: tuple[int, ...]
    networks: dict[str, dict]
    side: int


FULL = Sizes(
    runs=10, epochs_94=(8, 10), epochs_96=(26, 34), epochs_mnist=(2, 3),
    batch_94=2000, batch_96=1024, batch_mnist=1000,
    widths_94=(64, 256, 256), widths_96=(128, 512, 512), widths_mnist=(32, 64, 64),
    steps=50, batch_together=128, counts=(8, 32), side=28,
    networks={
        "MLP 512×3": {"name": "mlp", "hidden": [512, 512, 512]},
        "small CNN": {"name": "cnn", "channels": [6, 16, 32, 32, 32], "hidden": 84},
        "small ResNet": {"name": "resnet", "width": 16, "blocks": [1, 1, 1]},
    },
)  # fmt: skip
TINY = Sizes(
    runs=2, epochs_94=(1, 2), epochs_96=(1,), epochs_mnist=(1,),
    batch_94=20, batch_96=20, batch_mnist=20, widths_94=(4, 4), widths_96=(4, 4), widths_mnist=(4, 4),
    steps=2, batch_together=4, counts=(2,), side=8,
    networks={
        "MLP": {"name": "mlp", "hidden": [8]},
        "CNN": {"name": "cnn", "channels": [2, 2, 2, 2, 2], "hidden": 4},
        "ResNet": {"name": "resnet", "width": 2, "blocks": [1, 1]},
    },
)  # fmt: skip
SIZES = {"full": FULL, "tiny": TINY}


class Budget:
    """A number of seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()

    def part(self, seconds: float) -> "Budget":
        """A budget of these seconds, or of what is left."""
        return Budget(min(seconds, self.left()))

    def repeat(self, wanted: int, action: Callable[[int], dict]) -> list[dict]:
        """Calls `action` with 0, 1, ... and returns the results. Stops after `wanted` calls, or when the time left is
        shorter than the slowest call so far; calls it at least once."""
        results: list[dict] = []
        slowest = 0.0
        while len(results) < wanted and (not results or self.left() > slowest):
            start = time.monotonic()
            results.append(action(len(results)))
            slowest = max(slowest, time.monotonic() - start)
        return results


@dataclass(frozen=True)
class Card:
    """The device that is measured: a GPU, or a CPU to try the command."""

    device: torch.device

    @property
    def settings(self) -> dict:
        """The settings for `fit`."""
        return {"accelerator": "gpu" if self.device.type == "cuda" else "cpu", "precision": "bfloat16"}

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def wait(self) -> None:
        """Waits until the device has finished all of its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)


def row(what: str, goal: str = "", **given) -> dict:
    """A row of the table. All values are text, but for `reached` (true, false, or None if not known) and `measured`."""
    empty = {"ours": "", "other": "", "ratio": "", "accuracy": "", "reached": None, "runs": "", "measured": {}}
    return {"what": what, **empty, "goal": goal, "status": "measured", **given}


def spread(values: list[float], unit: str = " s") -> str:
    """The mean and the range as text, with three significant digits."""
    if len(values) == 1:
        return f"{values[0]:.3g}{unit}"
    return f"{statistics.fmean(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def percent(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2%}{deviation}"


def column(results: list[dict], name: str) -> list[float]:
    return [result[name] for result in results]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


Part = Callable[[Card, Sizes, dict, Budget], Iterator[dict]]
