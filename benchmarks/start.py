"""Seconds until a stage begins its work, item by item, and of a `dvc repro` with nothing to do.

The training stage runs as DVC runs it, to its end, on one epoch of digits; its first training step prints the time. The
limit is a bare PyTorch script that takes one step with one of torch's optimizers.
Runs in a temporary copy of this project, whose own results stay as they are.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from benchmarks.measure import RUNS, ForeignLoad, alone, command, ratio, seconds, spread
from benchmarks.pipeline import copy, row

# `python -m flows.train MEMBER`, whose first training step prints the time.
TRAINING = """
import sys, time
from flows import train
from flows.machine.console import run
from flows.training import resolving

build = resolving.build_once

def build_once(card):  # everything is loaded, no worker is forked yet
    from lightning_modules.classifier import Classifier
    step = Classifier.training_step
    def first(*arguments):
        print("first step", time.time(), flush=True)
        Classifier.training_step = step
        return step(*arguments)
    Classifier.training_step = first
    return build(card)

resolving.build_once = build_once
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
FEWER = 3  # rounds of measurements without a goal
# What each stage except `train` imports before its work begins.
STAGES = {
    "check": "flows.check",
    "download": "flows.download",
    "settings": "flows.settings",
    "evaluate": "flows.evaluate, flows.data.dataset, torch, flows.tracking.member_runs, lightning_modules.scores",
    "ensemble": "flows.ensemble, flows.data.dataset, torch, flows.tracking.registration, lightning_modules.scores",
}
# What a training loads, in this order, and the code that does it. MLflow is loaded while the replicas already train.
ITEMS = {
    "Python and the stage's own code": "import gc, flows.train; from flows.machine import console; "
    "gc.set_threshold(console.YOUNG)",
    "torch": "import torch",
    "torch's compiler, which its optimizers import": "import torch._dynamo",
    "Lightning": "import flows.training.replicas",
    "MLflow, while the replicas train": "import mlflow",
}


def first_step(code: str, *arguments: str, cwd: str) -> float:
    """Seconds from the start of a process to its first training step. Waits for the process to end."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return min(float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("first step")) - start


def until_the_end(code: str, cwd: str) -> float:
    """Seconds that a process takes."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True))


def in_rounds(actions: dict[str, Callable[[], float]], rounds: int = RUNS) -> dict[str, dict]:
    """Like `measure.alone` for each action, all in turn; an action returns its seconds."""
    for action in actions.values():
        action()
    with ForeignLoad() as load:
        taken = [{name: action() for name, action in actions.items()} for _ in range(rounds)]
    return {name: summary([one[name] for one in taken], load.share) for name in actions}


def summary(times: list[float], load: float) -> dict:
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "load": load, "returned": times}


def plain(what: str, found: dict) -> dict:
    """A row without a goal."""
    return {"what": what, "ours": spread(found["median"], found["min"], found["max"], " s"), "load": found["load"]}


def against_bare(folder: str) -> dict:
    ours, bare = in_rounds(
        {"ours": lambda: first_step(TRAINING, "mlp", cwd=folder), "bare": lambda: first_step(BARE, cwd=folder)}
    ).values()
    ratios = [theirs / own for own, theirs in zip(ours["returned"], bare["returned"])]
    what = "stage process: start to first training step, against a bare PyTorch loop's"
    return row(what, ours["median"], 4.0, ours) | {
        "other": spread(bare["median"], bare["min"], bare["max"], " s"),
        "ratio": ratio({"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}),
    }


def items(folder: str) -> list[dict]:
    """Rows of what each item adds to those before it: a difference of two noisy times, which can be below zero."""
    codes = list(ITEMS.values())
    taken = in_rounds(
        {name: partial(until_the_end, "\n".join(codes[: number + 1]), folder) for number, name in enumerate(ITEMS)},
        FEWER,
    )
    rows, before = [], [0.0] * FEWER
    for name, found in taken.items():
        added = [now - then for now, then in zip(found["returned"], before)]
        rows.append(plain(f"a training's start: {name}", summary(added, found["load"])))
        before = found["returned"]
    what = "a training's start: all of it until MLflow is loaded too"
    return [plain(what, found), *rows]


def shorten(folder: str) -> None:
    """Sets the epochs in params.yaml to one, which is enough if no training is measured."""
    file = Path(folder, "params.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["data"]["digits"]["epochs"] = 1
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def refused(refusal: list[str], folder: str) -> None:
    """Runs a command that has to refuse its input. Raises AssertionError if it ends in another way."""
    ended = subprocess.run(refusal, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr


def measure() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        shorten(folder)
        command("dvc", "repro", cwd=folder)()
        idle = alone(command("dvc", "repro", cwd=folder))
        rows = [row("dvc repro with nothing to do", idle["median"], 1.0, idle), against_bare(folder)]
        rows += items(folder)
        loading = in_rounds(
            {stage: partial(until_the_end, f"import {used}", folder) for stage, used in STAGES.items()}, FEWER
        )
        rows += [plain(f"stage {stage}: until its libraries are loaded", found) for stage, found in loading.items()]
        refusal = [sys.executable, "-m", "flows.train", "nobody"]
        times = alone(lambda: refused(refusal, folder))
        rows.append(row("a training stage's process until it refuses a wrong name", times["median"], 0.5, times))
    return rows
