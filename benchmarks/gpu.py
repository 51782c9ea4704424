"""The GPU's table: `python -m benchmarks.gpu DATA_FOLDER [--minutes 10] [--json FILE]`.

Needs torch, Lightning and numpy, and DATA_FOLDER with MNIST and CIFAR-10 (see `gpu_data`): no MLflow, DVC or Prefect.
It measures what it can in the given minutes and prints a markdown table. It writes the JSON file after each part, so
that figures survive a failure. `--device cpu --size tiny` tries everything without a GPU.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning
import torch

from benchmarks.gpu_accuracy import cifar_94, cifar_96, cifar_compiled, cifar_deterministic, mnist
from benchmarks.gpu_card import SIZES, Budget, Card, Part, Sizes, row, tell
from benchmarks.gpu_data import Split, load
from benchmarks.gpu_silent import silent
from benchmarks.gpu_together import together
from flows.project.errors import InputError

NO_GPU = "There is no GPU that torch can use here: the GPU's rows stay as not yet measured."
NOT_YET = "not yet measured"
COLUMNS = ("what", "ours", "other", "ratio", "accuracy", "runs", "goal", "reached", "status")
# A compilation cannot be interrupted when its time is over.
COMPILATION = 100


@dataclass(frozen=True)
class Planned:
    """One part of the table: the function that measures it, its share of all minutes, and its purpose."""

    name: str
    measure: Part
    share: float
    goal: str


PLAN = (
    Planned("no wait for the device in a training step", silent, 0.12, "no wait, no copy from or to the host"),
    Planned("CIFAR-10 to 94 %", cifar_94, 0.32, "94 % in at most 3 s, and 1.3 times the bare script"),
    Planned("CIFAR-10, deterministic", cifar_deterministic, 0.04, "the same accuracy for the same seed"),
    Planned("MNIST to 99 %", mnist, 0.08, "99 % in at most 0.5 s"),
    Planned("networks that train at once", together, 0.25, "MLP 512×3: 5 times as fast at 8, 12 times at 32"),
    Planned("CIFAR-10 to 96 %", cifar_96, 0.3, "96 % in at most 25 s"),
    Planned("CIFAR-10, the bare script compiled", cifar_compiled, 0.2, ""),
)


def run(
    data: dict[str, Split], card: Card, sizes: Sizes, seconds: float, keep: Callable[[list[dict]], None]
) -> list[dict]:
    """Measures all rows. Calls `keep` with the rows so far after each part."""
    rows: list[dict] = []
    budget = Budget(seconds)
    real = card.device.type == "cuda" and sizes is SIZES["full"]
    for planned in PLAN:
        found = list(part(planned, card, sizes, data, budget, planned.share * seconds))
        rows += [(one if real else tried(one)) | {"device": card.name} for one in found]
        keep(list(rows))
    return rows


def part(
    planned: Planned, card: Card, sizes: Sizes, data: dict[str, Split], budget: Budget, seconds: float
) -> Iterator[dict]:
    if budget.left() < (COMPILATION if planned.measure is cifar_compiled else 1):
        yield row(planned.name, planned.goal, status=f"{NOT_YET}: no time was left")
        return
    tell(f"{planned.name}: {budget.left():.0f} s are left")
    start = time.monotonic()
    try:
        yield from planned.measure(card, sizes, data, budget.part(seconds))
    except Exception as error:  # the other parts are still worth having
        traceback.print_exc()
        yield row(planned.name, planned.goal, status=f"failed: {type(error).__name__}: {error}")
    tell(f"{planned.name}: took {time.monotonic() - start:.0f} s")


def tried(found: dict) -> dict:
    """A row whose figures mean nothing, because they are those of a CPU or of tiny networks."""
    status = f"{NOT_YET}, tried" if found["status"] == "measured" else found["status"]
    return found | {"reached": None, "status": status}


def conditions(card: Card) -> dict:
    try:
        here = Path(__file__).parent
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        commit = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "device": card.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "lightning": pytorch_lightning.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }


def table(rows: list[dict]) -> str:
    said = {True: "yes", False: "no", None: ""}
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for found in rows:
        cells = [said[found[name]] if name == "reached" else found[name].replace("\n", " ") for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure() -> list[dict]:
    """The rows for `python -m benchmarks gpu`, with the project's own data."""
    if not torch.cuda.is_available():
        tell(NO_GPU)
        return [row(planned.name, planned.goal, ours=NOT_YET, status=NOT_YET) for planned in PLAN]
    from flows.project import paths

    folder = paths.root() / "data"
    data = {name: load(folder, name) for name in ("cifar10", "mnist")}
    return run(data, Card(torch.device("cuda", 0)), SIZES["full"], 570, lambda rows: None)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measures training on a GPU.")
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="holds MNIST and CIFAR-10")
    parser.add_argument("--minutes", type=float, default=10, help="that all of it may take (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries the command (cuda)")
    parser.add_argument("--size", choices=tuple(SIZES), default="full", help="tiny only tries the command (full)")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 1
    # The time to load, and a last training that began in time, come on top.
    budget = Budget(given.minutes * 60 * 0.95)
    card = Card(torch.device("cuda", 0) if given.device == "cuda" else torch.device("cpu"))
    try:
        data = {name: load(given.data, name) for name in ("cifar10", "mnist")}
    except (InputError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1

    def keep(rows: list[dict]) -> None:
        if given.json:
            content = {"conditions": conditions(card), "rows": rows}
            given.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    rows = run(data, card, SIZES[given.size], budget.left(), keep)
    print(table(rows))
    print("\n" + ", ".join(f"{name} {value}" for name, value in conditions(card).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
