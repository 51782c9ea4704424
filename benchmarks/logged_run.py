"""Seconds from a process's start to a logged run, and the network's test accuracy: means over seeds.

`python -m flows.train` runs in a new project with data, until it has ended and MLflow has its run.
"""

import contextlib
import statistics
import tempfile
from pathlib import Path

import yaml

from benchmarks import data, ours, workplace
from benchmarks.measure import ForeignLoad, accuracy, command, seconds, spread

SEEDS = 4
# Members, with their goals: test accuracy and seconds.
OFFERED = Path(__file__).parents[1] / "docs" / "members" / "mnist.yaml"
GOALS = {"quick": (0.989, 12.0), "precise": (0.993, 25.0)}


def measure() -> list[dict]:
    mnist = data.get("mnist")
    offered = yaml.safe_load(OFFERED.read_text(encoding="utf-8"))
    rows = []
    for name, goals in GOALS.items():
        feed = {key: offered[name].pop(key) for key in ("epochs", "batch_size", "augment")}
        rows.append(logged_run(f"MNIST, {name}", mnist, offered[name], feed, *goals))
    return rows


def logged_run(
    what: str, images: data.Data, recipe: dict, feed: dict, reach: float | None, goal: float | None, seeds: int = SEEDS
) -> dict:
    """Measures one row.

    Args:
        recipe: a member of params.yaml, of which one replica is trained.
        feed: epochs, batch_size and augment.
        reach: goal for the test accuracy, the mean over seeds.
        goal: goal for the seconds.
    """
    times, reached = [], []
    with ForeignLoad() as load:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                workplace.make(Path(folder), images, recipe | {"replicas": 1}, feed, seed=seed, rivals=False)
                times.append(seconds(command("flows.train", ours.MEMBER, cwd=folder)))
                reached.append(examine(Path(folder), images))
    epochs = f"{feed['epochs']} epoch" + "s" * (feed["epochs"] > 1)
    taken, mean = statistics.mean(times), statistics.mean(reached)
    row = {
        "what": f"{what}, small CNN ({epochs}), process start to logged run, mean of {seeds} seeds{images.remark}",
        "ours": spread(taken, min(times), max(times), " s"),
        "load": load.share,
        "measured": {"seconds": times, "accuracy": reached},
    }
    if images.real:
        row["accuracy"] = accuracy(reached)
    if goal is not None:
        row["goal"] = f"at most {goal:g} s" + (f" and at least {reach:.1%}" if images.real else "")
        row["reached"] = taken <= goal and (not images.real or mean >= reach)
    return row


def examine(root: Path, images: data.Data) -> float:
    """The test accuracy of the trained network.

    Raises:
        AssertionError: its run is not in MLflow, or has not finished.
    """
    import mlflow
    import torch

    from flows.models import trained_members
    from lightning_modules import weights

    # Not through mlflow_store.connect, which would make this the store of all processes that are started later.
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    place = client.get_experiment_by_name(images.dataset).experiment_id
    runs = client.search_runs([place], "tags.`trainyard.kind` = 'replica'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    with contextlib.chdir(root):
        _, (predictor,) = trained_members.load(images.dataset, ours.MEMBER)
        pixels, labels = images.held_out
        predicted = weights.predict(predictor, pixels).argmax(1)
    return (predicted == torch.from_numpy(labels)).float().mean().item()
