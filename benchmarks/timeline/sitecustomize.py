"""Records what each Python process spends its time on, for benchmarks/share.py.

Python imports this file by itself when its folder is in PYTHONPATH. The main thread's time is charged to an account, at
each moment the innermost of:

import X       loading the package X of IMPORTS, without other packages of IMPORTS that X loads
MLflow         a function of flows/tracking/, the one room that knows MLflow; "MLflow epochs": those called every epoch
Lightning      pytorch_lightning's Trainer, with the checkpoints that it saves
training       the steps that the Trainer calls, which a bare loop would take too
waiting        waiting for a command that it has started
own            everything else

A process writes its accounts when it ends. A forked one writes them at the end of each fit, because it is killed later.
"""

import atexit
import functools
import importlib._bootstrap
import json
import os
import sys
import threading
import time
from pathlib import Path

FOLDER = Path(os.environ["TRAINYARD_BENCH_TIMELINE"])
IMPORTS = ("torch", "pytorch_lightning", "torchmetrics", "mlflow", "prefect")
started = time.time()
main = threading.get_ident()
spent: dict[str, float] = {}
inside = ["own"]
calls: list[tuple[str, float, float]] = []  # of MLflow: name, start, end
since = time.perf_counter()


def charge() -> None:
    """Charges the time since the last change to the current account."""
    global since
    now = time.perf_counter()
    spent[inside[-1]] = spent.get(inside[-1], 0.0) + now - since
    since = now


def counted(name: str, original, at_end=lambda: None):
    """Wraps `original` so that its time is charged to the account `name`."""

    @functools.wraps(original)
    def call(*arguments, **named):
        if threading.get_ident() != main or inside[-1] == name:
            return original(*arguments, **named)
        charge()
        inside.append(name)
        start = time.time()
        try:
            return original(*arguments, **named)
        finally:
            charge()
            inside.pop()
            if name.startswith("MLflow"):
                calls.append((name, start, time.time()))
            at_end()

    return call


def lightning(module) -> None:
    module.Trainer.__init__ = counted("Lightning", module.Trainer.__init__)
    module.Trainer.fit = counted("Lightning", module.Trainer.fit, lambda: write("fit"))
    strategy = module.strategies.Strategy
    for name in ("training_step", "validation_step"):
        setattr(strategy, name, counted("training", getattr(strategy, name)))


def tracking(module) -> None:
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type):
            for method, function in list(vars(value).items()):
                if callable(function):
                    kind = "MLflow epochs" if method == "epoch" else "MLflow"
                    setattr(value, method, counted(kind, function))
        elif callable(value):
            setattr(module, name, counted("MLflow", value))


def commands(module) -> None:
    for name in ("__init__", "wait", "communicate"):
        setattr(module.Popen, name, counted("waiting", getattr(module.Popen, name)))


AFTER = {"pytorch_lightning": lightning, "subprocess": commands}
find_and_load = importlib._bootstrap._find_and_load


def load(name, *arguments):
    top = name.partition(".")[0]
    kind = f"import {top}" if top in IMPORTS else None
    module = counted(kind, find_and_load)(name, *arguments) if kind else find_and_load(name, *arguments)
    if name in AFTER:
        AFTER.pop(name)(sys.modules[name])
    elif name.startswith("flows.tracking."):
        tracking(sys.modules[name])
    return module


def write(when: str) -> None:
    charge()
    account = {
        "command": sys.orig_argv[1:], "when": when, "pid": os.getpid(), "parent": os.getppid(), "started": started,
        "ended": time.time(), "spent": spent, "calls": calls,
    }  # fmt: skip
    (FOLDER / f"{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(account), encoding="utf-8")


def forked() -> None:
    """Resets the accounts in a forked child. It inherits its parent's atexit functions, which write them."""
    global started, since
    started, since = time.time(), time.perf_counter()
    spent.clear()
    calls.clear()
    inside[:] = ["own"]


importlib._bootstrap._find_and_load = load
os.register_at_fork(after_in_child=forked)
atexit.register(write, "end")
