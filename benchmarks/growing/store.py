"""Makes an MLflow store with many runs: copies of real ones, because this project takes 0.3 s to log one.

Every row of every table that belongs to a run is copied, so that the copies differ only in their ids and digests.
"""

import sqlite3
import uuid
from pathlib import Path

from flows.statistics.replicates import summarize
from flows.tracking import member_runs, mlflow_runs

# Tables with rows that belong to a run, or to the model that is logged with it.
TABLES = (
    "runs", "tags", "params", "metrics", "latest_metrics", "inputs",
    "logged_models", "logged_model_tags", "logged_model_params", "logged_model_metrics",
)  # fmt: skip
OWN_KEYS = {"inputs": "input_uuid"}


def log(card: dict, folder: Path) -> dict[str, str]:
    """Logs a trained member of one replica, as stages train and evaluate would. Returns the ids of its two runs."""
    tracker = member_runs.Tracker(card, [card["replicas"][0]["seed"]])
    tracker.start()
    tracker.finish(folder, 1.0)
    scores = {f"{split}_{score}": 0.5 for split in ("best_validation", "test") for score in ("accuracy", "nll")}
    for key, numbers in (("member", summarize([scores])), ("0", scores)):
        tracker.log(key, numbers)
    if tracker.lost:
        raise RuntimeError("the run that is to be copied could not be logged")
    return tracker.ids


def multiply(file: Path, ids: dict[str, str], digests: list[str]) -> None:
    """Copies the two runs of a member, with its replica's model, once for each digest of other weights."""
    store = sqlite3.connect(file)
    own = "select value from tags where key = ? and run_uuid = ?"
    (digest,) = store.execute(own, (mlflow_runs.WEIGHTS, ids["0"])).fetchone()
    (model,) = store.execute("select model_id from logged_models where source_run_id = ?", (ids["0"],)).fetchone()
    names = {"member": ids["member"], "replica": ids["0"], "model": model, "digest": digest}
    store.execute("create temp table copies (member text, replica text, model text, digest text)")
    store.executemany(
        "insert into copies values (?, ?, ?, ?)",
        [(uuid.uuid4().hex, uuid.uuid4().hex, f"m-{uuid.uuid4().hex}", digest) for digest in digests],
    )
    for table in TABLES:
        columns = [(name, kind.upper()) for _, name, kind, *_ in store.execute(f"pragma table_info({table})")]
        text = [name for name, kind in columns if kind.startswith(("VARCHAR", "TEXT"))]
        copied = {name: f"old.{name}" for name, _ in columns}
        for name in text:
            for other, value in names.items():
                copied[name] = f"replace({copied[name]}, '{value}', copies.{other})"
        if table in OWN_KEYS:
            copied[OWN_KEYS[table]] = "lower(hex(randomblob(16)))"
        belongs = " or ".join(f"{name} in ('{ids['member']}', '{ids['0']}', '{model}')" for name in text)
        store.execute(
            f"insert into {table} ({', '.join(copied)}) select {', '.join(copied.values())} "
            f"from (select * from {table} where {belongs}) as old cross join copies"
        )
    store.commit()
    store.close()
