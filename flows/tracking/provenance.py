"""The provenance of a run: code, data, stage, machine, library versions."""

import importlib.metadata
import os
import re
import sys

import yaml

from flows.machine import identity
from flows.project import git, paths

TAG = "trainyard."  # start of our tags' names
# Libraries, besides torch, whose versions are tags of a run.
LIBRARIES = ("pytorch-lightning", "numpy", "mlflow", "dvc")


def provenance(dataset: str) -> dict[str, str]:
    """The tags with the provenance of a run."""
    import torch

    root = paths.root()
    return {
        "mlflow.source.git.commit": git.commit(root) or "none",
        "mlflow.source.name": "dvc.yaml",
        "mlflow.source.type": "PROJECT",
        "trainyard.git_dirty": str(git.is_dirty(root)).lower(),
        "trainyard.dvc_stage": os.environ.get("DVC_STAGE", "none"),
        "trainyard.data_hash": data_hash(dataset),
        "trainyard.dataset": dataset,
        **identity.this_process(TAG),
        "trainyard.python": sys.version.split()[0],
        "trainyard.torch": torch.__version__,  # with its build, +cu130 or +cpu, which the package's version may lack
        **{f"trainyard.{name}": importlib.metadata.version(name) for name in LIBRARIES},
        **({"trainyard.dvc_experiment": os.environ["DVC_EXP_NAME"]} if os.environ.get("DVC_EXP_NAME") else {}),
    }


def data_hash(dataset: str) -> str:
    """DVC's hash of data/<dataset> in dvc.lock, by which DVC finds the data; "none" where dvc.lock has none."""
    try:
        lock = (paths.root() / "dvc.lock").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "none"
    # Parse only this stage's lines: parsing those of a thousand members takes longer than training one.
    described = re.search(r"^  download:\n(?: {3}.*\n)*", lock, re.MULTILINE)
    outs = yaml.safe_load(described[0])["download"]["outs"] if described else []
    return next((out["md5"] for out in outs if out["path"] == f"data/{dataset}"), "none")
