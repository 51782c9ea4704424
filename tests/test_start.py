"""What a stage loads before it gets to work, and that it can still load what was hidden from Lightning."""

import subprocess
import sys

import pytest
from conftest import environment, soon

from flows import train
from flows.params.params_file import read
from flows.tracking import experiments, member_runs, mlflow_store
from lightning_modules.lightning import HIDDEN


def ran(code: str) -> list[str]:
    """The words that a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("modules", "not_loaded"),
    [
        # What the first line of a training, and of the others, imports is what they all wait for.
        ("flows.train, flows.data.dataset, flows.tracking.member_runs", {"torch", "mlflow"}),
        ("flows.training.replicas", {"mlflow", *HIDDEN}),
        ("flows.evaluate, flows.data.dataset, lightning_modules.scores, lightning_modules.weights",
         {"mlflow", "pytorch_lightning", "torchmetrics", *HIDDEN}),
        ("flows.ensemble, flows.data.dataset, lightning_modules.scores, lightning_modules.ensembles, "
         "lightning_modules.weights",
         {"mlflow", "pytorch_lightning", "torchmetrics", *HIDDEN}),
    ],
    ids=["before the work", "train", "evaluate", "ensemble"],
)  # fmt: skip
def test_a_stage_loads_no_more_than_it_needs(modules, not_loaded):
    assert not {*ran(f"import sys, {modules}; print(*sys.modules)")} & not_loaded


@pytest.mark.parametrize("dataset", ["digits", "blobs"])
def test_a_dataset_that_needs_no_archive_is_made_with_numpy_alone(project, dataset):
    code = f"import sys, flows.data.sources as s; s.read('{dataset}', 0.2); print(*sys.modules)"
    assert not {*ran(code)} & {"torch", "scipy", "sklearn"}


def test_what_was_hidden_can_be_imported_afterwards():
    code = """
import lightning_modules.fit
import importlib, importlib.metadata
for name in ("matplotlib.figure", "scipy.signal", "torchvision.models"):
    importlib.import_module(name)
print(*map(importlib.metadata.version, ("matplotlib", "scipy", "torchvision")))
"""
    assert len(ran(code)) == 3


def test_what_is_loaded_already_is_not_hidden():
    code = "import scipy, lightning_modules.lightning; import torchmetrics.utilities.imports as seen; "
    assert ran(code + "print(bool(seen._SCIPY_AVAILABLE), bool(seen._TORCHVISION_AVAILABLE))") == ["True", "False"]


def test_replicas_train_while_the_store_is_opened(tiny, store, monkeypatch):
    started = member_runs.Tracker.start

    def start(tracker) -> None:
        assert soon(lambda: any((tiny / ".trainyard" / "unfinished").rglob("replica-*")))
        started(tracker)

    monkeypatch.setattr(member_runs.Tracker, "start", start)
    train.train(read(), "small")
    client = mlflow_store.connect()
    runs = client.search_runs([experiments.experiment(client, "digits")], "tags.`trainyard.kind` = 'replica'")
    for run in runs:
        logged = client.get_metric_history(run.info.run_id, "validation_nll")
        assert sorted(metric.step for metric in logged) == [1, 2, 3, 4]
    assert len(runs) == 2
