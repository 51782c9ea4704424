"""Logs the training of a member, and the scores from stage evaluate."""

import csv
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.machine import identity
from flows.project import file_io, messages, paths
from flows.project.errors import MISTAKES
from flows.statistics.replicates import summarize
from flows.tracking import artifact_addresses, experiments, mlflow_runs, mlflow_store, provenance
from flows.untrusted import masking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import nn

MONITORED = "training_loss"  # a metric that every epoch has, whatever is learned
MOST_METRICS = 1000  # in one call to MLflow


def after_training(method: Callable) -> Callable:
    """Keeps a mistake of ours in a method for `Tracker.finish` to raise, when the weights are written: they are worth
    more. It is told where it comes up."""

    @functools.wraps(method)
    def call(self: "Tracker", *arguments: Any) -> None:
        try:
            method(self, *arguments)
        except MISTAKES as error:
            self.mistake = self.mistake or error
            sys.excepthook(type(error), error, error.__traceback__)
            messages.warn("this is a mistake in Trainyard itself: nothing more is logged, and the training goes on")

    return call


class Tracker(mlflow_runs.BestEffort):
    """The runs of one member: a parent run for its training, and a child run for each replica.

    Neither a store that fails nor a mistake of ours costs a training: the first is said, the second raised by `finish`.

    Args:
        card: the content of member.json; `replicas` may still be empty.
        seeds: the seeds of the replicas.
        work: the folder that keeps the ids of the runs, so that an interrupted training resumes them.
    """

    client: "MlflowClient"  # once connected

    def __init__(self, card: dict, seeds: list[int], work: Path | None = None) -> None:
        self.card, self.seeds = card, seeds
        self.ids_file = work / "runs.json" if work else None
        self.mistake: Exception | None = None
        self.connected = False
        self.ids: dict[str, str] = {}
        self.logged: dict[str, dict[int, float]] = {}  # by run: the epochs in the store, with their MONITORED

    @after_training
    @mlflow_runs.best_effort
    def start(self) -> None:
        self.open()

    def open(self) -> None:
        self.client = mlflow_store.connect()  # may wait for another process that creates the store
        self.connected = True
        self.begin()

    @mlflow_store.uninterrupted()
    def begin(self) -> None:
        self.experiment = experiments.experiment(self.client, self.card["dataset"])
        self.reopen()
        name = self.card["member"]
        params = mlflow_runs.flatten(self.card["recipe"]) | mlflow_runs.flatten(self.card["settings"])
        tags = provenance.provenance(self.card["dataset"]) | {
            mlflow_runs.MEMBER: name,
            "trainyard.device": self.card["settings"]["accelerator"],
            "trainyard.precision": self.card["settings"]["precision"],
        }
        if "member" not in self.ids:
            own = tags | {"trainyard.kind": "member"}
            self.ids["member"] = self.create(name, own, params | {"seed": self.card["seed"]})
        for number, seed in enumerate(self.seeds):
            if str(number) in self.ids:
                continue
            own = tags | {"mlflow.parentRunId": self.ids["member"], "trainyard.kind": "replica"}
            own["trainyard.seed"] = str(seed)
            self.ids[str(number)] = self.create(f"{name}-{number}", own, params | {"seed": seed})
        if self.ids_file:
            file_io.write_json(self.ids_file, self.ids)

    def reopen(self) -> None:
        """Finds the runs of an interrupted training, if they are in this store, and sets their status to RUNNING."""
        import mlflow

        if not (self.ids_file and self.ids_file.exists()):
            return
        ids = file_io.read_or_anew(self.ids_file, dict, {})  # `trainyard track` ends the runs of a damaged note
        wanted = [key for key in ("member", *map(str, range(len(self.seeds)))) if key in ids]
        try:
            runs = {key: self.client.get_run(ids[key]) for key in wanted}
        except mlflow.exceptions.MlflowException:
            return
        for key, run in runs.items():
            self.ids[key] = run.info.run_id
            if key != "member":
                self.logged[key] = self.epochs(key)
            self.client.update_run(run.info.run_id, status="RUNNING")
            for tag, value in identity.this_process(provenance.TAG).items():
                self.client.set_tag(run.info.run_id, tag, value)
            if mlflow_runs.ERROR in run.data.tags:
                self.client.delete_tag(run.info.run_id, mlflow_runs.ERROR)

    def create(self, name: str, tags: dict, params: dict) -> str:
        from mlflow.entities import Param

        run = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        self.client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])
        mlflow_runs.log_dataset(self.client, run, self.card["dataset"], "training")
        return run

    @after_training
    @mlflow_runs.best_effort
    @mlflow_store.uninterrupted()
    def epoch(self, number: int, row: dict) -> None:
        """Logs one row of a replica's history, unless it is there already.

        A training resumes from its last checkpoint, and repeats the epochs after it.
        """
        logged = self.logged.setdefault(str(number), {})
        if logged.get(row["epoch"]) == row[MONITORED]:
            return
        self.log(str(number), {key: value for key, value in row.items() if key != "epoch"}, row["epoch"])
        logged[row["epoch"]] = row[MONITORED]  # a retried replica, whose process was killed, repeats it too

    def log(self, key: str, metrics: dict[str, float], step: int = 0) -> None:
        self.client.log_batch(self.ids[key], metrics=mlflow_runs.metric_entities(metrics, step))

    @after_training
    @mlflow_runs.best_effort
    @mlflow_store.uninterrupted()
    def fail(self, error: BaseException) -> None:
        """Ends the runs: FAILED with the reason, or KILLED where the process was asked to stop."""
        if not self.connected:
            return
        stopped = isinstance(error, (SystemExit, KeyboardInterrupt))
        status, reason = ("KILLED", "interrupted") if stopped else ("FAILED", str(error) or type(error).__name__)
        for run in self.ids.values():
            self.client.set_tag(run, mlflow_runs.ERROR, masking.text(reason)[:5000])
            self.client.set_terminated(run, status)

    def finish(self, folder: Path, seconds: float | None = None) -> None:
        """Logs each replica's model and best epoch, and mean and deviation of the best epochs to the member's run.

        Also logs epochs that are missing, because of an interruption or since the store could not be reached.

        Raises:
            MISTAKES: what an earlier method kept: see `after_training`.
        """
        if self.mistake:
            raise self.mistake
        self.log_result(folder, seconds)

    @mlflow_runs.best_effort
    def log_result(self, folder: Path, seconds: float | None) -> None:
        from lightning_modules import weights

        if not self.connected:
            self.open()
        if file := mlflow_store.store_file():
            artifact_addresses.update_addresses(file)  # the project may have moved while it trained
        card, predictors = weights.load(folder)
        # Stage evaluate logs the best epoch's scores: it computes in float32, whatever the training's precision.
        best = [{"best_epoch": replica["best_epoch"]} for replica in card["replicas"]]
        self.complete(folder / "history.csv")
        for number, (replica, predictor) in enumerate(zip(card["replicas"], predictors)):
            run = self.client.get_run(self.ids[str(number)])
            mlflow_runs.log_once(self.client, run, best[number])
            # Unless it was logged before an interruption.
            if run.data.tags.get(mlflow_runs.WEIGHTS) != replica["weights_sha256"]:
                log_network(run.info.run_id, predictor, card)
                self.client.set_tag(run.info.run_id, mlflow_runs.WEIGHTS, replica["weights_sha256"])
            self.client.set_terminated(run.info.run_id)
        member = self.client.get_run(self.ids["member"])
        mlflow_runs.log_once(self.client, member, summarize(best) | ({"seconds": seconds} if seconds else {}))
        self.client.log_artifact(self.ids["member"], str(folder / "history.csv"))
        self.client.log_artifact(self.ids["member"], str(folder / "member.json"))
        self.client.set_terminated(self.ids["member"])

    def epochs(self, key: str) -> dict[int, float]:
        """The value of MONITORED by epoch, for each epoch of a run that is in the store."""
        history = self.client.get_metric_history(self.ids[key], MONITORED)
        return {metric.step: metric.value for metric in history}

    def complete(self, history: Path) -> None:
        """Logs the rows of a history.csv that the runs lack."""
        logged = {key: self.epochs(key) for key in self.ids}
        missing: dict[str, list] = {key: [] for key in self.ids}
        with history.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                number, epoch = row.pop("replica"), int(row.pop("epoch"))
                if epoch not in logged[number]:
                    missing[number] += mlflow_runs.metric_entities(
                        {name: float(value) for name, value in row.items()}, epoch
                    )
        for key, metrics in missing.items():
            for start in range(0, len(metrics), MOST_METRICS):
                self.client.log_batch(self.ids[key], metrics=metrics[start : start + MOST_METRICS])


def log_network(run: str, predictor: "nn.Module", card: dict) -> None:
    """Logs a replica as a model that takes images N×H×W×C and returns predictions, see `weights.Predictor`."""
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    dtype = np.dtype(card.get("dtype", "uint8"))
    example = np.zeros((2, *card["shape"]), dtype)  # a batch of one would be frozen into the exported program
    with torch.inference_mode():
        shape = predictor(torch.from_numpy(example)).shape[1:]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(dtype, (-1, *card["shape"]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, *shape))]),
    )
    with mlflow.start_run(run_id=run):
        mlflow.pytorch.log_model(
            predictor,
            name="model",
            signature=signature,
            input_example=example,
            serialization_format="pt2",
            # Without it MLflow loads the model in a process of its own to find out: 15 s.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
        )


class Scores(mlflow_runs.BestEffort):
    """Logs the scores from stage evaluate to the runs of a dataset's replicas."""

    client: "MlflowClient"

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.place = ""  # the id of the dataset's experiment, once the client is connected

    @mlflow_runs.best_effort
    def log(self, member: str, card: dict, replicas: list[dict[str, float]]) -> None:
        """Logs each replica's metrics to its run, and their mean and deviation to the member's run.

        Makes runs that do not exist, because MLflow could not be reached or the weights came from DVC's cache.
        """
        if not self.place:
            self.client = mlflow_store.connect()
            self.place = experiments.experiment(self.client, self.dataset)
        with mlflow_runs.runs_lock():
            runs = mlflow_runs.find_replicas(self.client, self.place, card)
            if runs is None:
                tracker = Tracker(card, [replica["seed"] for replica in card["replicas"]])
                tracker.finish(paths.model_folder(self.dataset, member))
                if tracker.lost:
                    self.lost = True
                    return
                runs = mlflow_runs.find_replicas(self.client, self.place, card)
            for run, metrics in zip(runs or (), [summarize(replicas), *replicas], strict=True):
                mlflow_runs.log_once(self.client, run, metrics)
