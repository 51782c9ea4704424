"""From a process's start to a logged run: `python -m flows.train` in a new project whose data lies ready, until it has
ended and MLflow holds its run; and the accuracy on test that its network reaches. The mean over seeds."""

import contextlib
import statistics
import tempfile
from pathlib import Path

import yaml

from benchmarks import data, ours, workplace
from benchmarks.measure import ForeignLoad, accuracy, command, seconds, spread

SEEDS = 4
# Members on offer, with the accuracy to reach and the most seconds that it may take.
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
    """One row.

    Args:
        recipe: a member of params.yaml, of which one replica is trained.
        feed: epochs, batch_size and augment.
        reach: accuracy on test, the mean over seeds.
        goal: seconds that the whole may take.
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
    """The accuracy on test of the one network that was trained.

    Raises:
        AssertionError: its run is not in MLflow, or has not ended well.
    """
    import mlflow
    import torch

    from flows.models import trained_members
    from lightning_modules import weights

    # Not by mlflow_store.connect, which makes this the store of every process that is started after it.
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    place = client.get_experiment_by_name(images.dataset).experiment_id
    runs = client.search_runs([place], "tags.`trainyard.kind` = 'replica'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    with contextlib.chdir(root):
        _, (predictor,) = trained_members.load(images.dataset, ours.MEMBER)
        pixels, labels = images.held_out
        predicted = weights.predict(predictor, pixels).argmax(1)
    return (predicted == torch.from_numpy(labels)).float().mean().item()
