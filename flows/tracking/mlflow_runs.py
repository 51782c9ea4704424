"""MLflow's runs: finds them by the digest of their weights, logs to them once, ends those whose process is gone."""

import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows.machine import identity
from flows.project import messages, paths
from flows.project.errors import DamagedError, our_mistake
from flows.tracking import descriptions, mlflow_store, provenance
from flows.tracking.provenance import TAG
from flows.untrusted import masking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

WEIGHTS = "trainyard.weights_sha256"
ENSEMBLE = "trainyard.ensemble_sha256"
TEST = "trainyard.test_sha256"
MEMBER = "trainyard.member"
ERROR = "trainyard.error"
PATIENCE = 1200  # seconds that another process may take to log a member, which may have a thousand networks


@contextmanager
def runs_lock() -> Iterator[None]:
    """Holds the lock for looking up, and creating where missing, runs and model versions.

    The lock is beside a SQLite store. For a server it is this project's: two machines that log the same training at
    the same time may both create its runs.
    """
    from filelock import FileLock

    file = mlflow_store.store_file()
    lock = file.with_name(f"{file.name}.runs.lock") if file else paths.state_folder() / "runs.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=PATIENCE):
        yield


def flatten(nested: dict, prefix: str = "") -> dict[str, str]:
    """A nested dict as MLflow's params: {"optimizer.lr": "0.001"}."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat


class BestEffort:
    """What logs by `best_effort` methods.

    Attributes:
        lost: whether one has failed.
        later: what logs later what was lost.
    """

    lost = False
    later = "`trainyard track` logs it later"


def best_effort(method: Callable) -> Callable:
    """Decorates a method of a BestEffort: reports its first failure, sets `lost`, and skips it and all later calls.

    Training goes on without MLflow. What is not the store's failure is raised: a DamagedError, which is about a file
    of this project, and a mistake in our own code.
    """

    @functools.wraps(method)
    def call(self: BestEffort, *arguments: Any) -> Any:
        if self.lost:
            return None
        try:
            return method(self, *arguments)
        except DamagedError:  # about a file of this project, not the store
            raise
        except Exception as error:  # whatever the store's trouble is, or a plugin's, the training is worth more
            self.lost = True
            if our_mistake(error):
                raise
            messages.warn(
                f"MLflow at {mlflow_store.shown_store()} cannot be used ({masking.sentence(error)}). "
                f"The work goes on without it; {self.later}"
            )
            return None

    return call


def metric_entities(metrics: dict[str, float], step: int = 0) -> list:
    """The metrics of one step as MLflow's entities."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in metrics.items()]


def log_dataset(client: "MlflowClient", run: str, dataset: str, context: str) -> None:
    """Logs the dataset of a run: its name, a digest, and the numbers of images and classes."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    card = descriptions.data_card(dataset)
    if not card:
        return
    digest = hashlib.sha256(json.dumps(card["files"], sort_keys=True).encode()).hexdigest()[:16]
    profile = card["counts"] | {"classes": len(card["class_names"]), "shape": card["shape"]}
    source = {"uri": f"data/{dataset}", "dvc": provenance.data_hash(dataset)}
    client.log_inputs(
        run,
        [
            DatasetInput(
                Dataset(dataset, digest, "dvc", json.dumps(source), profile=json.dumps(profile)),
                [InputTag("mlflow.data.context", context)],
            )
        ],
    )


def log_once(client: "MlflowClient", run: "Run", metrics: dict[str, float]) -> None:
    """Logs the metrics that a run, which was read just now, does not have: MLflow would append them again."""
    known = run.data.metrics
    if new := {name: value for name, value in metrics.items() if name not in known or differ(known[name], value)}:
        client.log_batch(run.info.run_id, metrics=metric_entities(new))


def differ(kept: float, value: float) -> bool:
    """Whether a value differs from the one in the store, which keeps infinity as the largest float."""
    if math.isnan(kept) or math.isnan(value):
        return math.isnan(kept) != math.isnan(value)
    return kept != min(max(value, -sys.float_info.max), sys.float_info.max)


def find_replicas(client: "MlflowClient", place: str, card: dict) -> list | None:
    """The newest runs of a member's training, first, and of its replicas, in the experiment `place`.

    None if one of them is missing.
    """
    runs = []
    for replica in card["replicas"]:
        found = client.search_runs([place], f"tags.`{WEIGHTS}` = '{replica['weights_sha256']}'", max_results=1)
        if not found:
            return None
        runs.append(found[0])
    member = client.get_run(runs[0].data.tags["mlflow.parentRunId"])
    return None if member.info.lifecycle_stage == "deleted" else [member, *runs]


def end_stale_runs() -> list[str]:
    """Ends RUNNING runs of this machine whose process is gone, as KILLED. Returns their names."""
    client = mlflow_store.connect()
    ended = []
    everywhere = [found.experiment_id for found in client.search_experiments()]
    running: list[Run] = []
    token: str | None = ""
    while token is not None:  # a page holds a thousand runs; more replicas may have been killed together
        page = client.search_runs(everywhere, "attributes.status = 'RUNNING'", page_token=token or None)
        running += page
        token = page.token or None
    for run in running:
        tags = run.data.tags
        ours = f"{TAG}{identity.HOST}" in tags
        if ours and identity.is_of_this_machine(tags, TAG) and not identity.is_alive(tags, TAG):
            client.set_terminated(run.info.run_id, "KILLED")
            ended.append(run.info.run_name)
    return ended
