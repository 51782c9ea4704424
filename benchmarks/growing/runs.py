"""Growth with runs in MLflow's SQLite store: copies of the runs of a finished project with one member."""

import itertools
from pathlib import Path

from benchmarks.growing import made, store
from benchmarks.growing.members import dvc
from benchmarks.growing.steps import Steps, grow
from flows import ensemble, evaluate, settings
from flows.project import paths
from flows.tracking import experiments, loading, member_runs, mlflow_runs, mlflow_store

GOAL = 3.0  # seconds of `trainyard status`


def at(steps: Steps, size: int) -> None:
    given = made.make(Path("a project"), made.tiny(1))
    (card,) = made.draw(given)
    ids = store.log(card, paths.model_folder(given.dataset, card["member"]))
    evaluate.evaluate(given)
    ensemble.ensemble(given)
    settings.settings(given)
    dvc("commit", "--force", "--quiet", "dvc.yaml")
    store.multiply(Path("mlflow.db"), ids, made.other_digests(size // 2 - 1))

    client = mlflow_store.connect()
    place = experiments.experiment(client, given.dataset)
    tracker = member_runs.Tracker(card, [])
    tracker.client, tracker.ids = client, ids
    row = {"training_loss": 1.0, "validation_nll": 1.0, "validation_accuracy": 0.5, "lr": 0.1}
    epochs = itertools.count(2)
    steps.take("one epoch logged", size, lambda: tracker.epoch(0, row | {"epoch": next(epochs)}))
    if tracker.lost:
        raise RuntimeError("MLflow's store could not be written to")
    steps.take("the run of a replica found", size, lambda: mlflow_runs.find_replicas(client, place, card))
    steps.take("stale runs looked for", size, mlflow_runs.end_stale_runs)
    steps.take("champion looked up", size, lambda: loading.champion(given.dataset))
    steps.run("trainyard status", size, "flows.cli", "status", goal=GOAL)
    steps.run("trainyard track with nothing to do", size, "flows.cli", "track")


if __name__ == "__main__":
    grow(at)
