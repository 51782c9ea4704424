"""The one file that knows MLflow: runs, models, the registry.

The store is `mlflow.db` and `mlartifacts/` beside the project, or the server that MLFLOW_TRACKING_URI names. A
dataset is an experiment; a member's training is a run with one run per replica below it; an ensemble is a run, and
its model a version of the registered model of the dataset's name. A run of a replica carries the digest of its
weights, so a stage finds the run of what it holds in its hands, wherever that was trained.

Training must never be lost to tracking: a store that cannot be reached is said once, the work goes on, and
`trainyard track` logs it from the files later.
"""

import csv
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import yaml

from flows import (
    artifact_addresses,
    bounded_yaml,
    login,
    masked,
    model_notes,
    ports,
    private_file,
    processes,
    project,
    served,
    trusted,
)
from flows.foreign_text import printable
from flows.spread import spread
from lightning_modules.errors import DamagedError, InputError, UnavailableError

CHALLENGER, CHAMPION = "challenger", "champion"
WEIGHTS = "trainyard.weights_sha256"
ENSEMBLE = "trainyard.ensemble_sha256"
TEST = "trainyard.test_sha256"
MEMBER = "trainyard.member"
ERROR = "trainyard.error"
# What the run of a registered ensemble has to say of it before it can be champion.
SCORES = ("test_accuracy", "test_nll", "test_brier", "test_ece")
# Of MLflow's two sets of pages: the other one opens, by default, on traces of chat models.
TRAINING = "workflowType=machine_learning"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # with this tag, so does an experiment
NOTE = "mlflow.note.content"  # the description that MLflow's pages show
NOTED = "trainyard.note_sha256"  # of the description that is this project's: one that a person has edited stays
LOADER = "trainyard_ensemble"  # the module that travels with each registered model
MONITORED = "validation_nll"  # which every epoch has
MOST_METRICS = 1000  # that MLflow takes at once
PATIENCE = 1200  # seconds that another process may take to log a member: its networks may be a thousand
# Whose versions a run is tagged with, beside torch's.
LIBRARIES = ("pytorch-lightning", "numpy", "mlflow", "dvc")


def store() -> str:
    """The tracking URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.home() / 'mlflow.db'}"


def in_sqlite() -> bool:
    return store().startswith("sqlite:")


def store_file() -> Path | None:
    """That of a SQLite store, and None for any other: its artifacts lie beside it."""
    uri = store()
    # What follows ? are options of the database's driver.
    return Path.cwd() / uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:///") else None


def artifacts_address() -> str | None:
    """Of the folder for the artifacts of new experiments; None where the store's server says where they go."""
    file = store_file()
    return (file.parent / artifact_addresses.ARTIFACTS).as_uri() if file else None


def shown_store() -> str:
    """The tracking URI for a person to read."""
    return masked.address(store())


def store_exists() -> bool:
    """Whether there is anything to ask without creating it."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (project.home() / "mlflow.db").exists()


def writable() -> bool:
    """Whether the store is anything else than a file that cannot be written to, with its lock and journal beside it."""
    file = store_file()
    return not file or not file.exists() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


def connect():
    """A client of the store, which is created where it does not exist yet.

    Raises:
        ConnectionError: a server does not answer within seconds.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own defaults try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    uri = store()
    if uri.startswith(("http://", "https://")):
        import requests

        # Never to a server of somebody else that has the registry: MLflow's client has one login for both.
        if is_served_here() and (os.environ.get("MLFLOW_REGISTRY_URI") or uri).rstrip("/") == uri.rstrip("/"):
            for name, value in login.for_mlflow().items():
                os.environ.setdefault(name, value)
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5, verify=certificates())
        except requests.RequestException as error:
            raise ConnectionError(f"{shown_store()} does not answer: {type(error).__name__}") from None
        if answer.status_code >= 500:
            said = printable(f"{answer.status_code} {answer.reason}"[:100])
            raise ConnectionError(f"{shown_store()} answers {said}")
    elif not in_sqlite():
        refuse_silence(uri)
    import logging

    import mlflow

    # Its chatter about migrations and models would drown a stage's own lines.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    file = store_file()
    if not file:
        return mlflow.MlflowClient()
    from filelock import FileLock

    if not writable():
        return mlflow.MlflowClient()  # which only reads; SQLite opens such a file for that alone
    # Several processes that open a new SQLite store at once trip over each other's migrations.
    with FileLock(f"{file}.lock"):
        if file == project.home() / "mlflow.db":
            keep_private(file)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        if file.is_file():  # MLflow keeps one open that was deleted under it
            artifact_addresses.follow(file)
    return client


@functools.cache  # once a process: of a store that was deleted since, MLflow would go on with what it has open
def keep_private(file: Path) -> None:
    """Lets other users neither read nor change the project's own store, which is made where there is none."""
    private_file.create(file)
    # With the locks, which who may read may hold.
    for more in ("", "-wal", "-shm", "-journal", ".lock", ".runs.lock"):
        private_file.tighten(file.with_name(f"{file.name}{more}"))
    private_file.make_folder(file.parent / artifact_addresses.ARTIFACTS)


def refuse_silence(uri: str) -> None:
    """Raises ConnectionError where the database server of the address does not answer: MLflow tries for minutes."""
    import socket
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise ConnectionError(f"{shown_store()} is no address of a server") from None
    port = port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        try:
            socket.create_connection((parts.hostname, port), 5).close()
        except OSError as error:
            raise ConnectionError(f"{parts.hostname}:{port} does not answer: {error.strerror or error}") from None


def certificates() -> bool | str:
    """What a server's certificate is checked against, as MLflow's own variables say."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def experiment(client, dataset: str) -> str:
    """The id of the dataset's experiment, which is created where there is none."""
    from filelock import FileLock
    from mlflow.exceptions import MlflowException

    project.state_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(project.state_folder() / "experiment.lock"):
        found = client.get_experiment_by_name(dataset)
        if found and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
            project.warn(
                f"the experiment {dataset} was deleted in MLflow. It is needed, so it is restored with its runs"
            )
        if found:
            return found.experiment_id
        root = artifacts_address()
        try:
            created = client.create_experiment(
                dataset, artifact_location=root and f"{root}/{quote(dataset)}", tags=KIND | model_notes.view()
            )
        except MlflowException:
            # Another machine was faster: the lock is this one's alone.
            if found := client.get_experiment_by_name(dataset):
                return found.experiment_id
            raise
        if store_file() or is_served_here():
            remove_default(client)
        return created


def is_served_here() -> bool:
    """Whether the store is the server that this project has brought up for itself."""
    there = served.addresses()
    same = bool(there) and there.get("own_mlflow", False) and store().rstrip("/") == there["mlflow"].rstrip("/")
    return same and ports.is_ours(store())


def tidy(client) -> None:
    """Before the pages of a store are shown: no empty experiment beside this project's."""
    if store_file() and len(client.search_experiments(max_results=2)) > 1:
        remove_default(client)


def remove_default(client) -> None:
    """Deletes the experiment that MLflow makes in each new store, where nothing is in it: beside the dataset's it only
    makes a visitor look twice."""
    from mlflow.entities import ViewType

    found = client.get_experiment_by_name("Default")
    if not found or found.lifecycle_stage == "deleted":
        return
    place = [found.experiment_id]
    if not (
        client.search_runs(place, run_view_type=ViewType.ALL, max_results=1)
        or client.search_logged_models(place, max_results=1)
        or client.search_traces(locations=place, max_results=1, include_spans=False)
    ):
        client.delete_experiment(found.experiment_id)


@contextmanager
def alone_with_runs() -> Iterator[None]:
    """Holds the lock under which runs, and versions of models, are looked for and made where there are none. It lies
    beside a SQLite store; for a server it is this project's, and two machines that log one training at the same moment
    may each make its runs."""
    from filelock import FileLock

    file = store_file()
    lock = file.with_name(f"{file.name}.runs.lock") if file else project.state_folder() / "runs.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=PATIENCE):
        yield


def prepare() -> None:
    """Creates store and experiment once, before stages fan out. Raises ConnectionError like `connect`."""
    from flows.params import read

    experiment(connect(), read().dataset)


def pages_address() -> str:
    """Where MLflow's pages are: the server that is the store, what `trainyard serve` has brought up, or else what
    `trainyard ui` opens when it is asked for no other port."""
    uri = store()
    if uri.startswith(("http://", "https://")):
        return masked.address(uri).rstrip("/")
    there = served.addresses()
    return there["mlflow"] if there else "http://127.0.0.1:5000"


def pages() -> dict:
    """Links into MLflow's pages for the dataset in params.yaml: `experiment`, `runs` (by member, and "ensemble"; the
    newest of each) and, where one is registered, `model`, its newest version.

    Raises:
        ConnectionError: the store's server does not answer.
    """
    from flows.params import read

    params = read()
    address, client = pages_address(), connect()
    own = shown_experiment(client, params.dataset)
    place = f"{address}/#/experiments/{own}/runs"
    runs = {}
    for name in (*params.members, "ensemble"):
        kind = "ensemble" if name == "ensemble" else "member"
        which = f"tags.`trainyard.kind` = '{kind}'" + (f" and tags.`{MEMBER}` = '{name}'" if kind == "member" else "")
        for found in client.search_runs([own], which, max_results=1):
            runs[name] = f"{place}/{found.info.run_id}?{TRAINING}"
    links = {"experiment": f"{address}/#{runs_page(own)}", "runs": runs}
    versions = client.search_model_versions(f"name = '{params.dataset}'", max_results=1)
    if versions:
        links["model"] = f"{address}/#/models/{params.dataset}/versions/{versions[0].version}?{TRAINING}"
    return links


def shown_experiment(client, dataset: str) -> str:
    """The id of the dataset's experiment, with its columns: one that was made elsewhere, or long ago, may lack them."""
    own = experiment(client, dataset)
    for key, value in model_notes.view().items():
        if client.get_experiment(own).tags.get(key) != value:
            client.set_experiment_tag(own, key, value)
    return own


def runs_page(experiment: str) -> str:
    """The list of an experiment's runs, with this project's columns: what follows # in its address."""
    return f"/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={model_notes.VIEW}"


def start_page(client) -> str:
    """Where a visitor of the pages begins: at the runs on the dataset in params.yaml, which may be wrong just now."""
    from flows.params import read

    try:
        return runs_page(shown_experiment(client, read().dataset))
    except InputError:
        return f"/experiments?{TRAINING}"


def provenance(dataset: str) -> dict[str, str]:
    """The tags that say what a run was made from: code, data, stage, machine, library versions."""
    import torch

    commit, dirty = git_state()
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": "dvc.yaml",
        "mlflow.source.type": "PROJECT",
        "trainyard.git_dirty": str(dirty).lower(),
        "trainyard.dvc_stage": os.environ.get("DVC_STAGE", "none"),
        "trainyard.data_hash": data_hash(dataset),
        "trainyard.dataset": dataset,
        "trainyard.host": socket.gethostname(),
        "trainyard.pid": str(os.getpid()),
        "trainyard.process_started": str(psutil.Process().create_time()),
        "trainyard.python": sys.version.split()[0],
        "trainyard.torch": torch.__version__,  # with its build, +cu130 or +cpu, which the package's version may lack
        **{f"trainyard.{name}": importlib.metadata.version(name) for name in LIBRARIES},
        **({"trainyard.dvc_experiment": os.environ["DVC_EXP_NAME"]} if os.environ.get("DVC_EXP_NAME") else {}),
    }


def git_state() -> tuple[str, bool]:
    """The commit ("none" outside git) and whether the tree differs from it in more than what stages write."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        english = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(["git", *arguments], cwd=project.root(), env=english, capture_output=True, text=True)

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!dvc.lock", ":!metrics").stdout
    except FileNotFoundError:
        return "none", True
    if commit.returncode:
        if "dubious ownership" in commit.stderr:
            warn_once(f"git says nothing of the commit, so runs are without one: {' '.join(commit.stderr.split())}")
        return "none", True
    return commit.stdout.strip(), bool(changed)


warn_once = functools.cache(project.warn)


def data_hash(dataset: str) -> str:
    """DVC's hash of data/<dataset>, as dvc.lock has it: `dvc` finds the data by it. "none" before the first lock."""
    try:
        lock = (project.root() / "dvc.lock").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "none"
    # One stage's lines of thousands: parsing those of a thousand members takes longer than training one.
    described = re.search(r"^  download:\n(?: {3}.*\n)*", lock, re.MULTILINE)
    outs = yaml.safe_load(described[0])["download"]["outs"] if described else []
    return next((out["md5"] for out in outs if out["path"] == f"data/{dataset}"), "none")


def flatten(settings: dict, prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow's params: {"optimizer.lr": "0.001"}."""
    flat = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat


def unless_unreachable(method: Callable) -> Callable:
    """Makes a Tracker's method say a failure once and turns it, and all calls after it, into nothing."""

    @functools.wraps(method)
    def call(self, *arguments):
        if self.lost:
            return None
        try:
            return method(self, *arguments)
        except DamagedError:  # a file here, and not the store
            raise
        except Exception as error:  # whatever the store's trouble is, the training is worth more
            self.lost = True
            print(
                f"trainyard: MLflow at {shown_store()} cannot be used ({masked.sentence(error)}). The work goes on "
                "without it; `trainyard track` logs it later",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            return None

    return call


def entities(metrics: dict[str, float], step: int = 0) -> list:
    """Numbers of one epoch as MLflow takes them."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in metrics.items()]


def log_dataset(client, run: str, dataset: str, context: str) -> None:
    """Notes in a run which data it saw: its name, a digest, and how many images and classes there are."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    card = model_notes.data_card(dataset)
    if not card:
        return
    digest = hashlib.sha256(json.dumps(card["files"], sort_keys=True).encode()).hexdigest()[:16]
    profile = card["counts"] | {"classes": len(card["class_names"]), "shape": card["shape"]}
    source = {"uri": f"data/{dataset}", "dvc": data_hash(dataset)}
    client.log_inputs(
        run,
        [
            DatasetInput(
                Dataset(dataset, digest, "dvc", json.dumps(source), profile=json.dumps(profile)),
                [InputTag("mlflow.data.context", context)],
            )
        ],
    )


def log_once(client, run, metrics: dict[str, float]) -> None:
    """Logs those numbers that a run, as it was read just now, does not have already: MLflow would append each again."""
    known = run.data.metrics
    if new := {name: value for name, value in metrics.items() if name not in known or differ(known[name], value)}:
        client.log_batch(run.info.run_id, metrics=entities(new))


def differ(kept: float, value: float) -> bool:
    """Whether a number is another one than the store has kept, in which infinity is the largest number."""
    if math.isnan(kept) or math.isnan(value):
        return math.isnan(kept) != math.isnan(value)
    return kept != min(max(value, -sys.float_info.max), sys.float_info.max)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets an interrupt wait while SQLite is asked.

    A query that Python interrupts stays open in this process, and with it a lock that lets nobody write: the run
    could not even be ended as killed. A server may take minutes to answer, and has no such lock.
    """
    with processes.postponed() if in_sqlite() else nullcontext():
        yield


class Tracker:
    """The runs of one member: one for its training, one per replica below it.

    Args:
        card: the content of member.json, of which `replicas` may still be empty.
        seeds: of the replicas.
        work: keeps the ids of the runs, so that an interrupted training goes on in them.
    """

    def __init__(self, card: dict, seeds: list[int], work: Path | None = None) -> None:
        self.card, self.seeds = card, seeds
        self.ids_file = work / "runs.json" if work else None
        self.lost = False
        self.client = None
        self.ids: dict[str, str] = {}
        self.logged: dict[str, dict[int, float]] = {}  # by run, what is there, also of before an interruption

    @unless_unreachable
    def start(self) -> None:
        self.client = connect()  # may take as long as another process needs to make the store
        self.begin()

    @uninterrupted()
    def begin(self) -> None:
        self.experiment = experiment(self.client, self.card["dataset"])
        self.reopen()
        name = self.card["member"]
        params = flatten(self.card["recipe"]) | flatten(self.card["settings"])
        tags = provenance(self.card["dataset"]) | {
            MEMBER: name,
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
            project.write_json(self.ids_file, self.ids)

    def reopen(self) -> None:
        """Finds the runs of an interrupted training, as far as they are in this store, and sets them running again."""
        import mlflow

        if not (self.ids_file and self.ids_file.exists()):
            return
        ids = project.read_or_anew(self.ids_file, dict, {})  # the runs of a damaged note are ended by `trainyard track`
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
            self.client.set_tag(run.info.run_id, "trainyard.pid", str(os.getpid()))
            self.client.set_tag(run.info.run_id, "trainyard.process_started", str(psutil.Process().create_time()))
            if ERROR in run.data.tags:
                self.client.delete_tag(run.info.run_id, ERROR)

    def create(self, name: str, tags: dict, params: dict) -> str:
        from mlflow.entities import Param

        run = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        self.client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])
        log_dataset(self.client, run, self.card["dataset"], "training")
        return run

    @unless_unreachable
    @uninterrupted()
    def epoch(self, number: int, row: dict) -> None:
        """Logs one row of a replica's history, unless it is there: a training goes on from its last checkpoint, and
        comes to the same epochs again."""
        logged = self.logged.setdefault(str(number), {})
        if logged.get(row["epoch"]) == row[MONITORED]:
            return
        self.log(str(number), {key: value for key, value in row.items() if key != "epoch"}, row["epoch"])
        logged[row["epoch"]] = row[MONITORED]  # a replica whose process was killed comes to it again, too

    def log(self, key: str, metrics: dict[str, float], step: int = 0) -> None:
        self.client.log_batch(self.ids[key], metrics=entities(metrics, step))

    @unless_unreachable
    @uninterrupted()
    def fail(self, error: BaseException) -> None:
        """Ends the runs: FAILED with the reason, or KILLED where the process was asked to stop."""
        if not self.client:
            return
        stopped = isinstance(error, (SystemExit, KeyboardInterrupt))
        status, reason = ("KILLED", "interrupted") if stopped else ("FAILED", str(error) or type(error).__name__)
        for run in self.ids.values():
            self.client.set_tag(run, ERROR, masked.text(reason)[:5000])
            self.client.set_terminated(run, status)

    @unless_unreachable
    def finish(self, folder: Path, seconds: float | None = None) -> None:
        """Logs each replica's model and best epoch, and their mean and deviation to the member's run; and the
        epochs that were not logged when they ended, before an interruption or without a store."""
        from lightning_modules import weights

        if not self.client:
            self.start()
            if self.lost:
                return
        if file := store_file():
            artifact_addresses.follow(file)  # the project may have moved while it trained
        card, predictors = weights.load(folder)
        # The best epoch's scores come from evaluate, which computes in float32 whatever the training did.
        best = [{"best_epoch": replica["best_epoch"]} for replica in card["replicas"]]
        self.complete(folder / "history.csv")
        for number, (replica, predictor) in enumerate(zip(card["replicas"], predictors)):
            run = self.client.get_run(self.ids[str(number)])
            log_once(self.client, run, best[number])
            if run.data.tags.get(WEIGHTS) != replica["weights_sha256"]:  # else it is there since before an interruption
                log_network(run.info.run_id, predictor, card)
                self.client.set_tag(run.info.run_id, WEIGHTS, replica["weights_sha256"])
            self.client.set_terminated(run.info.run_id)
        member = self.client.get_run(self.ids["member"])
        log_once(self.client, member, spread(best) | ({"seconds": seconds} if seconds else {}))
        self.client.log_artifact(self.ids["member"], str(folder / "history.csv"))
        self.client.log_artifact(self.ids["member"], str(folder / "member.json"))
        self.client.set_terminated(self.ids["member"])

    def epochs(self, key: str) -> dict[int, float]:
        """What of a run's epochs is in the store: the value of one of their numbers by epoch."""
        history = self.client.get_metric_history(self.ids[key], MONITORED)
        return {metric.step: metric.value for metric in history}

    def complete(self, history: Path) -> None:
        """Logs those rows of a history file that are not in the runs yet."""
        logged = {key: self.epochs(key) for key in self.ids}
        missing: dict[str, list] = {key: [] for key in self.ids}
        with history.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                number, epoch = row.pop("replica"), int(row.pop("epoch"))
                if epoch not in logged[number]:
                    missing[number] += entities({name: float(value) for name, value in row.items()}, epoch)
        for key, metrics in missing.items():
            for start in range(0, len(metrics), MOST_METRICS):
                self.client.log_batch(self.ids[key], metrics=metrics[start : start + MOST_METRICS])


def log_network(run: str, predictor, card: dict) -> None:
    """Logs a replica as a model that takes uint8 images N×H×W×C and returns log-probabilities N×classes."""
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *card["shape"]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(card["class_names"])))]),
    )
    with mlflow.start_run(run_id=run):
        mlflow.pytorch.log_model(
            predictor,
            name="model",
            signature=signature,
            # A batch of one would be frozen into the exported program.
            input_example=np.zeros((2, *card["shape"]), np.uint8),
            serialization_format="pt2",
            # Without it MLflow installs and imports the model in a process of its own to find out: 15 s.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
        )


class Scores:
    """Brings what `evaluate` measured to the runs of the replicas that it measured."""

    def __init__(self, dataset: str) -> None:
        self.dataset, self.lost = dataset, False
        self.client, self.place = None, ""  # MLflow's, and the id of the dataset's experiment

    @unless_unreachable
    def log(self, member: str, card: dict, replicas: list[dict[str, float]]) -> None:
        """Logs one dict of metrics to each replica's run, their mean and deviation to the member's.

        Runs that do not exist, since MLflow could not be reached or the weights came from DVC's cache, are made now.
        """
        if not self.client:
            self.client = connect()
            self.place = experiment(self.client, self.dataset)
        with alone_with_runs():
            runs = find_replicas(self.client, self.place, card)
            if runs is None:
                tracker = Tracker(card, [replica["seed"] for replica in card["replicas"]])
                tracker.finish(project.model_folder(self.dataset, member))
                if tracker.lost:
                    self.lost = True
                    return
                runs = find_replicas(self.client, self.place, card)
            for run, metrics in zip(runs, [spread(replicas), *replicas], strict=True):
                log_once(self.client, run, metrics)


def find_replicas(client, place: str, card: dict) -> list | None:
    """The run of the member's training and those of its replicas, the newest ones, or None if one is missing from the
    experiment `place`."""
    runs = []
    for replica in card["replicas"]:
        found = client.search_runs([place], f"tags.`{WEIGHTS}` = '{replica['weights_sha256']}'", max_results=1)
        if not found:
            return None
        runs.append(found[0])
    member = client.get_run(runs[0].data.tags["mlflow.parentRunId"])
    return None if member.info.lifecycle_stage == "deleted" else [member, *runs]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def described_store() -> str:
    """The store's address in a description, which has to stay true when the project moves."""
    file = store_file()
    return f"sqlite:///{file.name}" if file == project.home() / "mlflow.db" else shown_store()


class Registrar:
    """Logs an ensemble and registers it as the dataset's challenger, and as champion where there is none yet.

    With nobody to compare it with the gate is not asked. What has no number for a score is left a challenger.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset, self.lost = dataset, False

    @unless_unreachable
    def register(self, digest: str, card: dict, files: Path) -> dict:
        """Registers the ensemble, unless its digest is registered already, and sets its aliases.

        Args:
            digest: of all that makes the ensemble: networks, method, vote weights, test data.
            card: shape, class_names, method, members, test_sha256, metrics (numbers to log).
            files: the folder that `served_ensemble` loads.

        Returns:
            name, version and aliases of the version, the version that is champion, None where there is none, and the
            names of the scores that this version has no number for.
        """
        client = connect()
        trusted.note(self.dataset, files)  # also of one that is registered already: where the record was lost
        with alone_with_runs():
            known = versions_of(client, self.dataset, digest)
            version = known[0].version if known else self.add(client, digest, card, files)
        client.set_registered_model_alias(self.dataset, CHALLENGER, version)
        unknown = [name for name in SCORES if not math.isfinite(card["metrics"].get(name, math.nan))]
        if not unknown and CHAMPION not in client.get_registered_model(self.dataset).aliases:
            client.set_registered_model_alias(self.dataset, CHAMPION, version)
        return self.describe(client, version) | {"unknown": unknown}

    def add(self, client, digest: str, card: dict, files: Path) -> str:
        """Logs the run and the model, and makes it a version of the registered model."""
        from mlflow.entities import Param

        tags = provenance(self.dataset) | {"trainyard.kind": "ensemble", ENSEMBLE: digest, TEST: card["test_sha256"]}
        params = {"method": card["method"], "members": card["members"], "networks": card["networks"]}
        with uninterrupted():
            run = client.create_run(experiment(client, self.dataset), run_name="ensemble", tags=tags).info.run_id
            client.log_batch(
                run,
                metrics=entities(card["metrics"]),
                params=[Param(name, str(value)[:6000]) for name, value in params.items()],
            )
            log_dataset(client, run, self.dataset, "evaluation")
        try:
            model = self.log_model(run, card, files)
        except BaseException as error:
            with uninterrupted():
                client.set_tag(run, ERROR, masked.text(str(error))[:5000])
                client.set_terminated(run, "FAILED")
            raise
        with uninterrupted():
            if not client.search_registered_models(f"name = '{self.dataset}'"):
                client.create_registered_model(self.dataset)
            of_version = {ENSEMBLE: digest, TEST: card["test_sha256"]}
            version = client.create_model_version(
                self.dataset, model.model_uri, run_id=run, model_id=model.model_id, tags=of_version
            ).version
            self.describe_in_words(client, run, str(version), tags, card)
            return version

    def describe_in_words(self, client, run: str, version: str, tags: dict[str, str], card: dict) -> None:
        """Gives the version and its run, the model and the experiment their descriptions."""
        from flows.params import read

        address = described_store()
        said = model_notes.verdict(self.dataset, card)
        results, made = model_notes.table(read()), model_notes.made_by(tags)
        own = model_notes.together(
            said, results, made, model_notes.use(self.dataset, f"/{version}", card["shape"], address)
        )
        client.update_model_version(self.dataset, version, own)
        client.set_tag(run, NOTE, own)
        use = model_notes.use(self.dataset, f"@{CHAMPION}", card["shape"], address)
        if not client.get_registered_model(self.dataset).description:
            client.update_registered_model(self.dataset, model_notes.together(use))
        place = client.get_experiment(client.get_run(run).info.experiment_id)
        whole = model_notes.together(said, results, made, use)
        if place.tags.get(NOTED) == sha256(place.tags.get(NOTE, "")) or not place.tags.get(NOTE):
            client.set_experiment_tag(place.experiment_id, NOTE, whole)
            client.set_experiment_tag(place.experiment_id, NOTED, sha256(whole))

    def log_model(self, run: str, card: dict, files: Path):
        import mlflow
        import numpy as np
        import torch
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        columns = [ColSpec("string", "label"), *(ColSpec("double", name) for name in card["class_names"])]
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / f"{LOADER}.py"
            shutil.copy(Path(__file__).with_name("served_ensemble.py"), code)
            with mlflow.start_run(run_id=run):
                return mlflow.pyfunc.log_model(
                    name="model",
                    loader_module=LOADER,
                    code_paths=[str(code)],
                    data_path=str(files),
                    signature=ModelSignature(
                        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *card["shape"]))]), outputs=Schema(columns)
                    ),
                    input_example=np.zeros((2, *card["shape"]), np.uint8),
                    pip_requirements=[
                        f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}", "pandas",
                    ],
                )  # fmt: skip

    def describe(self, client, version: str) -> dict:
        aliases = [alias for alias, number in client.get_registered_model(self.dataset).aliases.items()
                   if str(number) == str(version)]  # fmt: skip
        champion = client.get_registered_model(self.dataset).aliases.get(CHAMPION)
        return {
            "name": self.dataset, "version": str(version), "aliases": sorted(aliases),
            "champion": str(champion) if champion else None,
        }  # fmt: skip


def versions_of(client, dataset: str, digest: str) -> list:
    """The versions of the dataset's model that are the ensemble of this digest."""
    return client.search_model_versions(f"name = '{dataset}' and tags.`{ENSEMBLE}` = '{digest}'")


def champion(dataset: str) -> dict | None:
    """Name, version, run_id, alias and tags of the dataset's champion, or None.

    Raises:
        ConnectionError: the store's server does not answer.
    """
    import mlflow

    if not store_exists():
        return None
    client = connect()
    try:
        version = client.get_model_version_by_alias(dataset, CHAMPION)
    except mlflow.exceptions.MlflowException as error:
        # The first: no such model. The second: no such alias.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return {
        "name": dataset, "version": str(version.version), "run_id": version.run_id, "alias": CHAMPION,
        "tags": dict(version.tags),
    }  # fmt: skip


def load_champion(dataset: str):
    """The champion, as `load_version` has it, and its card.

    Raises:
        InputError: there is no champion, or it may not be loaded: see `trusted`.
        UnavailableError: the store does not answer, or the champion cannot be loaded.
    """
    found = champion_or_refuse(dataset)
    return load_version(dataset, found["version"], f"the champion, {dataset} version {found['version']},"), found


def champion_or_refuse(dataset: str) -> dict:
    """What `champion` finds. Raises InputError where there is none, UnavailableError where the store is away."""
    try:
        found = champion(dataset)
    except Exception as error:  # each kind of store fails in a way of its own
        raise UnavailableError(f"MLflow at {shown_store()} cannot be used: {masked.sentence(error)}") from None
    if found is None:
        raise InputError(
            f"there is no champion for {dataset} in {shown_store()}: `make repro` trains and registers one, "
            "and where all is up to date `trainyard track` does"
        )
    return found


def load_version(dataset: str, number: str, called: str = ""):
    """A version of the dataset's model, in memory: a `ServedEnsemble`, or for one of another kind that is trusted, what
    has its `predict` and `shape`.

    Args:
        called: what it is to a person, in a message.

    Raises:
        InputError: this project neither registered nor trusts it; nothing of it is read then.
        UnavailableError: its files cannot be had, or cannot be loaded.
    """
    copy = tempfile.TemporaryDirectory(prefix="trainyard-")
    with ExitStack() as until_loaded, loading(called or f"{dataset} version {number}"):
        until_loaded.enter_context(copy)
        folder, data = fetch(dataset, number, Path(copy.name))
        trusted.check(dataset, number, folder, data)
        if data:
            from flows.served_ensemble import ServedEnsemble

            return ServedEnsemble(data)
        model = Foreign(folder, copy)
        until_loaded.pop_all()
        return model


@contextmanager
def loading(called: str) -> Iterator[None]:
    """Makes a sentence of what goes wrong while a model is loaded or asked, whoever made it and however long ago."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # MLflow's, torch's or the model's own
        raise UnavailableError(f"{called} cannot be loaded: {masked.sentence(error)}") from None


def fetch(dataset: str, number: str, place: Path) -> tuple[Path, Path | None]:
    """Copies a version's model to below a place, without looking into it.

    Returns:
        Its folder, and the part of it that `served_ensemble` loads; None in a model that says it is loaded otherwise.
    """
    client = connect()
    import mlflow

    source = files_of(client, dataset, number)
    refuse_elsewhere(source, f"{dataset} version {number}")
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{dataset}/{number}", dst_path=str(place))).resolve()
    (folder / "registered_model_meta").unlink(missing_ok=True)  # MLflow's, of this download
    try:
        flavor = bounded_yaml.read(folder / "MLmodel")["flavors"]["python_function"]
    except InputError as error:  # which would be one of this user
        raise ValueError(str(error)) from None
    data = (folder / str(flavor.get("data", ""))).resolve()
    ours = flavor.get("loader_module") == LOADER and data != folder and data.is_relative_to(folder)
    return folder, data if ours else None


def files_of(client, dataset: str, number: str) -> str:
    """The address of a version's files."""
    address = client.get_model_version_download_uri(dataset, number)
    if address.startswith("models:/"):
        return client.get_logged_model(address.removeprefix("models:/").strip("/")).artifact_location
    return address


def refuse_elsewhere(address: str, called: str) -> None:
    """Raises InputError for the address of files that another server than the store's has. Whoever may write to the
    store chooses it, and MLflow's client would send the store's password there."""
    parts, own = urlsplit(address), urlsplit(store())
    if parts.scheme in ("http", "https", "mlflow-artifacts") and parts.netloc not in ("", own.netloc):
        raise InputError(
            f"{called} is not loaded: its files are on {printable(parts.hostname or parts.netloc)}, which is not the "
            f"server of {shown_store()}"
        )


class Foreign:
    """A trusted model of another kind than those that are registered here; its code is run by MLflow.

    Args:
        folder: with all that belongs to it.
        copy: what removes the folder when the model goes.
    """

    def __init__(self, folder: Path, copy: tempfile.TemporaryDirectory) -> None:
        import mlflow

        self.copy, path, before = copy, list(sys.path), set(sys.modules)
        try:
            self.model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
        finally:
            # Two models may bring code under one name: Python would give the second one the code of the first.
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                    del sys.modules[name]
            sys.path[:] = path
        self.shape = tuple(self.model.metadata.get_input_schema().inputs[0].shape[1:])

    def predict(self, images):
        return self.model.predict(images)


def end_stale_runs() -> list[str]:
    """Ends runs whose process on this machine is gone and that still say RUNNING. Returns their names."""
    client = connect()
    ended = []
    everywhere = [found.experiment_id for found in client.search_experiments()]
    running, page = [], None
    while page is None or page.token:  # a page holds a thousand, and so many replicas may have been killed together
        page = client.search_runs(everywhere, "attributes.status = 'RUNNING'", page_token=page and page.token)
        running += page
    for run in running:
        tags = run.data.tags
        if tags.get("trainyard.host") == socket.gethostname() and not alive(tags):
            client.set_terminated(run.info.run_id, "KILLED")
            ended.append(run.info.run_name)
    return ended


def alive(tags: dict[str, str]) -> bool:
    """Whether the process that a run's tags name still runs; a number that another one got since does not count."""
    try:
        started = psutil.Process(int(tags["trainyard.pid"])).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(started - float(tags["trainyard.process_started"])) < 1
