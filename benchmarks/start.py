"""How long a stage takes to get to work, item by item, and `dvc repro` to find that nothing is to be done.

The training stage runs as DVC runs it, to its end, on one epoch of digits; its first training step says when it
begins. The limit is a bare PyTorch script that takes one step with one of torch's optimizers.
Runs in a temporary copy of this project, whose own results stay as they are.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.measure import RUNS, alone, command
from benchmarks.pipeline import copy, row

# `python -m flows.train MEMBER`, with a training step that says when it is taken for the first time.
TRAINING = """
import sys, time
from flows import train
from flows.console import run

build = train.try_out

def try_out(card):  # everything is loaded, no worker is forked yet
    from lightning_modules.classifier import Classifier
    step = Classifier.training_step
    def first(*arguments):
        print("first step", time.time(), flush=True)
        Classifier.training_step = step
        return step(*arguments)
    Classifier.training_step = first
    return build(card)

train.try_out = try_out
run(train.command)
"""
BARE = """
import time
import torch
network = torch.nn.Linear(64, 10)
optimizer = torch.optim.AdamW(network.parameters(), fused=True)
print("first step", time.time(), flush=True)
torch.nn.functional.cross_entropy(network(torch.randn(64, 64)), torch.randint(10, (64,))).backward()
optimizer.step()
"""
# What each stage imports before its work begins.
STAGES = {
    "check": "flows.check",
    "download": "flows.download",
    "train": "flows.train, flows.dataset, torch, flows.tracking, flows.replicas",
    "evaluate": "flows.evaluate, flows.dataset, torch, flows.tracking, lightning_modules.scores",
    "ensemble": "flows.ensemble, flows.dataset, torch, flows.tracking, lightning_modules.scores",
}
# What is loaded one after another in a training, and how it is done; MLflow while the replicas train already.
ITEMS = {
    "Python and the stage's own code": "import gc, flows.console, flows.train; gc.set_threshold(flows.console.YOUNG)",
    "torch": "import torch",
    "torch's compiler, which its optimizers import": "import torch._dynamo",
    "torchmetrics": "import lightning_modules.torchmetrics_alone",
    "Lightning": "import flows.replicas",
    "MLflow, while the replicas train": "import mlflow",
}


def first_step(code: str, *arguments: str, cwd: str) -> float:
    """Seconds from the start of a process to its first training step; waits for its end."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return min(float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("first step")) - start


def rounds(actions: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The seconds that each action returns, `RUNS` times in turn after a warm-up."""
    for action in actions.values():
        action()
    taken = [{name: action() for name, action in actions.items()} for _ in range(RUNS)]
    return {name: [one[name] for one in taken] for name in actions}


def seconds_of(code: str, cwd: str) -> Callable[[], float]:
    def action() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True)
        return time.perf_counter() - start

    return action


def spread(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def plain(what: str, times: list[float]) -> dict:
    """A row without a goal."""
    found = spread(times)
    text = f"{found['median']:.2f} s ({found['min']:.2f} to {found['max']:.2f})"
    return {"what": what, "ours": text, "other": "", "ratio": "", "goal": "", "reached": None}


def against_bare(folder: str) -> dict:
    taken = rounds(
        {
            "ours": lambda: first_step(TRAINING, "mlp", cwd=folder),
            "bare": lambda: first_step(BARE, cwd=folder),
        }
    )
    found = row("stage process: start to first training step, against a bare PyTorch loop's",
                statistics.median(taken["ours"]), 4.0, spread(taken["ours"]))  # fmt: skip
    ratios = [bare / ours for ours, bare in zip(taken["ours"], taken["bare"])]
    return found | {
        "other": f"{statistics.median(taken['bare']):.2f} s",
        "ratio": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    }


def items(folder: str) -> list[dict]:
    """What each item adds to those before it; a difference of two noisy times, so it can be below zero."""
    codes = list(ITEMS.values())
    taken = rounds({name: seconds_of("\n".join(codes[: number + 1]), folder) for number, name in enumerate(ITEMS)})
    rows, before = [], [0.0] * RUNS
    for name, times in taken.items():
        rows.append(plain(f"a training's start: {name}", [now - then for now, then in zip(times, before)]))
        before = times
    whole = spread(before)
    return [
        row("a training stage's process until torch, Lightning and MLflow are loaded", whole["median"], 4.0, whole),
        *rows,
    ]


def shorten(folder: str) -> None:
    """One epoch is enough where no training is measured."""
    file = Path(folder, "params.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["data"]["digits"]["epochs"] = 1
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def refused(refusal: list[str], folder: str) -> None:
    """Raises AssertionError where the command ends in another way than by refusing what it was given."""
    ended = subprocess.run(refusal, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr


def measure() -> list[dict]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        shorten(folder)
        command("dvc", "repro", cwd=folder)()
        idle = alone(command("dvc", "repro", cwd=folder))
        rows = [row("dvc repro with nothing to do", idle["median"], 1.0, idle), against_bare(folder)]
        rows += items(folder)
        loading = rounds({stage: seconds_of(f"import {names}", folder) for stage, names in STAGES.items()})
        rows += [plain(f"stage {stage}: until its libraries are loaded", times) for stage, times in loading.items()]
        refusal = [sys.executable, "-m", "flows.train", "nobody"]
        times = alone(lambda: refused(refusal, folder))
        rows.append(row("a training stage's process until it refuses a wrong name", times["median"], 0.5, times))
    return rows
