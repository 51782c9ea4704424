"""Seconds of the pipeline from nothing, and of commands that are run often.

Runs in a temporary copy of this project, whose own results stay as they are.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measure import ForeignLoad, alone, command, seconds

PROJECT = Path(__file__).parents[1]
PARTS = (
    *("flows", "lightning_modules", "sources", "params.yaml", "dvc.yaml", "prefect.yaml"),
    *("studies/studies.yaml", "studies/dvc.yaml"),
    *(".dvc/config", ".dvc/plots", ".dvcignore", ".gitignore"),
)


def copy(target: Path) -> None:
    for part in PARTS:
        source = PROJECT / part
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / part)
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "copy"]):
        subprocess.run(["git", *arguments], cwd=target, check=True)


def row(what: str, measured: float, goal: float, spread: dict | None = None, load: float | None = None) -> dict:
    text = f"{measured:.2f} s" + (f" ({spread['min']:.2f} to {spread['max']:.2f})" if spread else "")
    return {
        "what": what, "ours": text, "goal": f"at most {goal:g} s", "reached": measured <= goal,
        "load": spread["load"] if spread else load,
    }  # fmt: skip


def measure() -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        with ForeignLoad() as load:
            cold = seconds(command("dvc", "repro", cwd=folder)) + seconds(command("flows.commands.results", cwd=folder))
        rows.append(
            row("dvc repro of the default (digits) from nothing, and its table, once", cold, 90, load=load.share)
        )
        for name, goal in (("--help", 0.5), ("status", 3.0)):
            times = alone(command("flows.cli", name, cwd=folder))
            rows.append(row(f"trainyard {name}", times["median"], goal, times))
    return rows
