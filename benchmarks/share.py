"""The frameworks' time in a cold `dvc repro` of MNIST with the default members, item by item, relative to the time of
the training steps, which is that of a bare loop; and the time that Prefect adds when it runs the stages.

One epoch is trained, and times that grow with the epochs are multiplied by the number in params.yaml. Measured once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from benchmarks.aside import PROJECT
from benchmarks.measure import ForeignLoad
from benchmarks.pipeline import copy
from flows.data import sources
from flows.project import paths
from flows.project.errors import InputError

GOAL = 0.1
TIMELINE = PROJECT / "benchmarks" / "timeline"
FRAMEWORKS = ("Lightning", "MLflow", "DVC")
STEPS = "training steps"
# Items by the accounts of benchmarks/timeline.
ITEMS = {
    "import torch": "loading torch, in each stage", "import pytorch_lightning": "Lightning",
    "import torchmetrics": "Lightning", "Lightning": "Lightning", "training": STEPS, "import mlflow": "MLflow",
    "MLflow": "MLflow", "MLflow epochs": "MLflow",
}  # fmt: skip
PER_EPOCH = ("Lightning", "training", "MLflow epochs")


def measure() -> list[dict]:
    dataset = "mnist" if obtainable("mnist") else "digits"
    with tempfile.TemporaryDirectory() as folder:
        epochs = prepare(Path(folder), dataset)
        with ForeignLoad() as load:
            items = of_repro(*run(Path(folder), "dvc", "repro"), epochs)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), "digits")
        items["Prefect"] = of_pipeline(*run(Path(folder), "flows.pipeline", "--workers", "1"))
    return rows(f"cold dvc repro of {dataset}, {epochs} epochs", items, load.share)


def obtainable(dataset: str) -> bool:
    try:
        sources.read(dataset, "official")
    except InputError:
        return False
    return True


def prepare(root: Path, dataset: str) -> int:
    """Makes a copy of the project that trains for one epoch. Returns the number of epochs in params.yaml."""
    copy(root)
    archives = paths.state_folder() / "archives"
    if archives.is_dir():
        (root / ".trainyard").mkdir()
        (root / ".trainyard" / "archives").symlink_to(archives)
    file = root / "params.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["dataset"] = dataset
    epochs, content["data"][dataset]["epochs"] = content["data"][dataset]["epochs"], 1
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return epochs


def run(root: Path, *arguments: str) -> tuple[float, list[dict]]:
    """Runs `python -m ARGUMENTS` in a project. Returns its seconds, and the account of each of its processes.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(TIMELINE), str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            **os.environ, "TRAINYARD_BENCH_TIMELINE": folder, "PYTHONPATH": os.pathsep.join(paths),
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
        }  # fmt: skip
        start = time.perf_counter()
        ended = subprocess.run([sys.executable, "-m", *arguments], cwd=root, env=env, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if ended.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{(ended.stdout + ended.stderr)[-3000:]}")
        return seconds, [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(folder).iterdir())]


def module(account: dict) -> str:
    """The module that a process ran by `python -m`."""
    command = account["command"]
    return command[command.index("-m") + 1] if "-m" in command else ""


def of_repro(seconds: float, accounts: list[dict], epochs: int) -> dict[str, float]:
    """Seconds of each item of a `dvc repro` that took `seconds` with one epoch, as they would be with `epochs`."""
    (dvc,) = (account for account in accounts if module(account) == "dvc")
    waited = dvc["spent"].get("waiting", 0.0)
    items = Counter(DVC=seconds - waited)
    own = [account for account in accounts if module(account).startswith("flows.")]
    pids = {account["pid"] for account in own}
    # Processes that a stage has forked have the command of the stage.
    stages = [account for account in own if account["when"] == "end" and account["parent"] not in pids]
    for account in stages:
        # The last account of each worker, which may have trained several networks.
        workers = {other["pid"]: other for other in own if other["parent"] == account["pid"]}
        for kind, taken in of_stage(account, list(workers.values())).items():
            items[ITEMS.get(kind, kind)] += taken * (epochs if kind in PER_EPOCH else 1)
    items["processes that start and end"] = waited - sum(stage["ended"] - stage["started"] for stage in stages)
    return dict(items)


def of_stage(account: dict, workers: list[dict]) -> dict[str, float]:
    """Seconds of each item of a stage, with the training of its slowest worker, since workers train side by side.

    What the stage's process did meanwhile, logging to MLflow, counts too, although nobody waited for it.
    """
    spent = Counter(account["spent"])
    rest = spent.pop("own", 0.0) + spent.pop("waiting", 0.0)
    if workers:
        fits = [
            Counter({kind: worker["spent"].get(kind, 0.0) for kind in ("training", "Lightning")}) for worker in workers
        ]
        longest = max(fits, key=Counter.total)
        first = min(worker["started"] for worker in workers)
        last = max(worker["ended"] for worker in workers)
        meanwhile = sum(max(0.0, min(end, last) - max(start, first)) for _, start, end in account["calls"])
        spent += longest
        rest += meanwhile - longest.total()
    name = module(account).removeprefix("flows.")
    spent["train: data, weights, replicas' processes" if name == "train" else name] += max(rest, 0.0)
    return dict(spent)


def of_pipeline(seconds: float, accounts: list[dict]) -> float:
    """Seconds of a pipeline that runs one stage at a time, without those of its DVC commands."""
    return seconds - sum(account["ended"] - account["started"] for account in accounts if module(account) == "dvc")


def rows(what: str, items: dict[str, float], load: float) -> list[dict]:
    """A row of the frameworks' share, and a row for each item, the largest first."""
    steps = items[STEPS]
    share = sum(items.get(name, 0.0) for name in FRAMEWORKS) / steps
    first = {
        "what": f"{what}: {', '.join(FRAMEWORKS)} as a share of the training steps", "ours": f"{share:.1%}",
        "goal": f"at most {GOAL:.0%}", "reached": share <= GOAL, "load": load, "measured": {"seconds": items},
    }  # fmt: skip
    each = [
        {"what": f"of it: {name}" if name != "Prefect" else "with Prefect (trainyard pipeline): more", "load": load,
         "ours": f"{taken:.2f} s", "ratio": f"{taken / steps:.1%}"}
        for name, taken in sorted(items.items(), key=lambda item: -item[1])
    ]  # fmt: skip
    return [first, *each]
