"""Training a member: what its result depends on and what not, and that nothing but a whole training leaves one."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
import torch
from conftest import LIMIT, edit, environment, soon
from safetensors.torch import load_file

from flows import train
from flows.params.params_file import Params, read
from flows.project.errors import InputError
from flows.tracking import experiments, member_runs, mlflow_runs, mlflow_store
from flows.training import interrupted, member_files, resolving
from lightning_modules import weights

LONG = 100_000  # epochs, to be killed in


def only_small(folder: Path, *, epochs: int = 4, seed: int = 0, **recipe) -> Params:
    def change(content: dict) -> None:
        content["seed"] = seed
        content["data"]["digits"]["epochs"] = epochs
        content["members"] = {"small": content["members"]["small"] | recipe}

    return edit(folder, change)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / "digits" / "small" / "weights.safetensors")


def checkpoint(folder: Path, number: int = 0) -> bool:
    return any((folder / ".trainyard" / "unfinished" / "digits" / "small").glob(f"*/replica-{number}.ckpt"))


def has_runs(folder: Path) -> bool:
    return any((folder / ".trainyard" / "unfinished" / "digits" / "small").glob("*/runs.json"))


def begin(folder: Path, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.train", "small"], cwd=folder, env=environment(**env), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def runs() -> list:
    client = mlflow_store.connect()
    return client.search_runs([experiments.experiment(client, "digits")])


def leaves_nothing(folder: Path) -> bool:
    return not any((folder / "models").rglob("*"))


def test_a_member_is_three_files_that_agree(tiny, no_store):
    card = train.train(read(), "small")
    folder = tiny / "models" / "digits" / "small"
    assert sorted(file.name for file in folder.iterdir()) == ["history.csv", "member.json", "weights.safetensors"]
    assert sorted(file.name for file in (tiny / "models").rglob("*") if file.is_dir()) == ["digits", "small"]
    assert weights.read_card(folder) == card
    assert card["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [(row["replica"], row["epoch"]) for row in rows] == [(r, e) for r in "01" for e in "1234"]
    for number, replica in enumerate(card["replicas"]):
        own = [row for row in rows if row["replica"] == str(number)]
        best = min(own, key=lambda row: float(row["validation_nll"]))
        assert replica["epochs"] == len(own)
        assert replica["best_epoch"] == int(best["epoch"])
        assert replica["validation_nll"] == float(best["validation_nll"])
        assert replica["validation_accuracy"] > 0.5
    assert not (tiny / ".trainyard" / "unfinished" / "digits" / "small").exists()


def test_a_member_is_trained_by_its_own_settings(tiny, no_store):
    params = only_small(tiny, epochs=4, replicas=1)
    first = train.train(params, "small")
    own = {"epochs": 2, "batch_size": 100, "augment": "altflip", "threads": 2}

    def change(content: dict) -> None:
        content["members"]["small"] |= own

    card = train.train(edit(tiny, change), "small")
    assert card["settings"] == first["settings"] | own
    assert card["recipe"] == first["recipe"]
    assert card["replicas"][0]["epochs"] == 2


def test_how_many_train_at_once_changes_nothing(tiny, no_store, monkeypatch):
    params = only_small(tiny, epochs=3, replicas=3)  # two at a time in turns of two epochs
    made = []
    for jobs in ("1", "2"):
        monkeypatch.setenv("TRAINYARD_JOBS", jobs)
        assert resolving.side_by_side(3, 1, "cpu", 1) == int(jobs)
        train.train(params, "small")
        made.append((tiny / "models/digits/small/weights.safetensors").read_bytes())
    assert made[0] == made[1]


def test_one_replica_more_leaves_the_others_and_another_seed_changes_all(tiny, no_store):
    train.train(only_small(tiny, epochs=1, replicas=2), "small")
    two = trained(tiny)
    train.train(only_small(tiny, epochs=1, replicas=3), "small")
    three = trained(tiny)
    assert {name for name in three if not name.startswith("2.")} == set(two)
    assert all(torch.equal(three[name], two[name]) for name in two)
    weight = next(name for name in two if two[name].ndim == 2).removeprefix("0.")
    assert not torch.equal(three[f"0.{weight}"], three[f"1.{weight}"])
    train.train(only_small(tiny, epochs=1, replicas=2, seed=1), "small")
    other = trained(tiny)
    assert not any(torch.equal(other[f"{number}.{weight}"], two[f"{number}.{weight}"]) for number in (0, 1))


def test_a_second_process_is_refused_and_a_failed_one_lets_go(tiny, no_store):
    with interrupted.training_lock(tiny / ".trainyard" / "unfinished" / "digits" / "small"):
        with pytest.raises(InputError, match="small is being trained on digits by another process") as refused:
            train.train(read(), "small")
        second = begin(tiny)
        _, said = second.communicate(timeout=LIMIT)
    assert second.returncode == 2
    assert said == f"trainyard: {refused.value}\n"
    train.train(only_small(tiny, epochs=1, replicas=1), "small")


def test_a_loss_that_is_no_number_ends_the_training(tiny, store):
    only_small(tiny, optimizer={"name": "sgd", "lr": 1e20}, replicas=1)
    process = begin(tiny)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith("trainyard: small, replica 0: ")
    assert said.endswith("in epoch 1\n")
    assert leaves_nothing(tiny)
    assert [run.info.status for run in runs()] == ["FAILED"] * 2
    assert {run.data.tags["trainyard.error"] for run in runs()} == {said.removeprefix("trainyard: ").strip()}


def workers(process: subprocess.Popen, but: Collection[psutil.Process] = ()) -> list[psutil.Process]:
    """Of a training: they have a second thread. Its other children, such as git, look like it until they execute."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):
            if child not in but and child.num_threads() > 1 and "python" in child.name():
                found.append(child)
    return found


def test_the_replica_of_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_weights(tiny, no_store):
    params = only_small(tiny, epochs=60, replicas=2)
    train.train(params, "small")
    uninterrupted = (tiny / "models/digits/small/weights.safetensors").read_bytes()
    process = begin(tiny, MLFLOW_TRACKING_URI=no_store, TRAINYARD_JOBS="1")
    assert soon(lambda: checkpoint(tiny, 0))
    [worker] = workers(process)
    worker.kill()
    said, warned = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, warned
    [line] = [line for line in said.splitlines() if "SIGKILL" in line]
    free = r"[\d.]+ of [\d.]+ GiB of memory are free"
    told = rf"the process that trained small-\d was ended by SIGKILL \(.*{free}\): it is tried once more"
    assert re.fullmatch(told, line), line
    assert "going on with a training that was interrupted" in said
    assert (tiny / "models/digits/small/weights.safetensors").read_bytes() == uninterrupted


def test_a_replica_whose_worker_is_killed_twice_fails_and_leaves_no_result(tiny, no_store):
    only_small(tiny, epochs=LONG, replicas=2)
    process = begin(tiny, MLFLOW_TRACKING_URI=no_store, TRAINYARD_JOBS="2")
    assert soon(lambda: checkpoint(tiny, 0) and checkpoint(tiny, 1))
    both = workers(process)
    assert len(both) == 2
    for worker in both:
        worker.kill()
    # Each replica is tried again: one process for both of them.
    assert soon(lambda: workers(process, but=both))
    [worker] = workers(process, but=both)
    worker.kill()
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    told = r"^trainyard: the process that trained small-\d was ended by SIGKILL \(.*\), for the second time\n\Z"
    assert re.search(told, said, re.MULTILINE), said
    assert "Traceback" not in said
    assert leaves_nothing(tiny)
    assert not any(child.is_running() for child in (*both, worker))


def test_a_killed_training_leaves_no_process_and_no_lock(tiny, no_store):
    # Two finish together, the third one trains: a worker waits for work, and must end as well.
    only_small(tiny, epochs=60, replicas=3)
    process = begin(tiny, MLFLOW_TRACKING_URI=no_store, TRAINYARD_JOBS="2")
    assert soon(lambda: checkpoint(tiny, 2))
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    try:
        assert soon(lambda: not any(worker.is_running() for worker in workers))
    finally:
        for worker in filter(psutil.Process.is_running, workers):
            worker.kill()
        process.communicate()
    with interrupted.training_lock(tiny / ".trainyard" / "unfinished" / "digits" / "small"):
        assert leaves_nothing(tiny)


def test_an_interrupted_training_goes_on_in_its_runs_to_the_same_weights(tiny, store, no_store, monkeypatch):
    params = only_small(tiny, epochs=60, replicas=2)
    train.train(params, "small")
    uninterrupted = (tiny / "models/digits/small/weights.safetensors").read_bytes()
    (tiny / "models").rename(tiny / "elsewhere")

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    process = begin(tiny)
    children = psutil.Process(process.pid).children
    assert soon(lambda: len(children()) == 2)
    workers = children()  # later there are others: git is asked for the commit
    assert soon(lambda: checkpoint(tiny))
    for worker in workers:
        worker.suspend()  # so that it cannot finish before the store is open
    assert soon(lambda: has_runs(tiny))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert said.strip() == ""
    assert leaves_nothing(tiny)
    before = {run.info.run_id: run for run in runs()}
    assert {run.info.status for run in before.values()} == {"KILLED"}
    assert {run.data.tags["trainyard.error"] for run in before.values()} == {"interrupted"}

    train.train(params, "small")
    assert (tiny / "models/digits/small/weights.safetensors").read_bytes() == uninterrupted
    after = {run.info.run_id: run for run in runs()}
    assert after.keys() == before.keys()
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert not any("trainyard.error" in run.data.tags for run in after.values())
    client = mlflow_store.connect()
    for run in after.values():
        if run.data.tags["trainyard.kind"] == "replica":
            steps = {metric.step for metric in client.get_metric_history(run.info.run_id, "validation_nll")}
            assert steps == set(range(1, 61))


def test_training_is_not_lost_to_a_store_that_does_not_answer(tiny, no_store, capsys, monkeypatch):
    asked, send = [], requests.Session.send

    def counted(*given, **options):
        asked.append(given)
        return send(*given, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    train.train(read(), "small")
    # Each of which waits for all its tries: the store is given up at the first, and not asked again each epoch.
    assert len(asked) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert no_store in line
    assert "trainyard track" in line
    assert trained(tiny)


@pytest.mark.parametrize(("place", "name", "wrong"), [
    (mlflow_runs, "flatten", lambda settings: None),  # when its runs are made
    (member_runs, "MONITORED", "no such number"),  # in the first epoch
    (member_runs, "summarize", lambda best: None),  # when the weights are written
])  # fmt: skip
def test_a_mistake_of_ours_is_raised_and_costs_no_training(tiny, capsys, place, name, wrong):
    params = only_small(tiny, epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, wrong)
        with pytest.raises((KeyError, TypeError)):
            train.train(params, "small")
    assert "cannot be used" not in capsys.readouterr().err
    weights = (tiny / "models/digits/small/weights.safetensors").read_bytes()
    # Mended, all is logged, and nothing is trained again.
    work = tiny / ".trainyard" / "unfinished" / "digits" / "small"
    assert len(list(work.glob("*/replica-*.safetensors"))) == params.member("small").replicas
    train.train(params, "small")
    assert (tiny / "models/digits/small/weights.safetensors").read_bytes() == weights
    assert {run.info.status for run in runs()} == {"FINISHED"}


def test_a_mistake_in_a_store_is_the_stores(tiny, capsys, monkeypatch):
    def plugin(*given, **named):
        raise KeyError("as a plugin may")

    monkeypatch.setattr("mlflow.MlflowClient.log_batch", plugin)
    train.train(only_small(tiny, epochs=1), "small")
    assert "cannot be used ('as a plugin may')" in capsys.readouterr().err
    assert trained(tiny)


def test_a_large_initializer_and_two_threads_do_not_hang_the_workers(tiny, no_store):
    """Both use torch's pool of threads: one that the parent had opened would not answer in a forked worker."""
    edit(tiny, lambda content: content["training"].update(threads=2))
    network = {"name": "mlp", "hidden": [512, 512]}
    process = begin(only_small(tiny, epochs=1, initializer="orthogonal", network=network) and tiny)
    assert process.wait(timeout=LIMIT) == 0
    process.communicate()


def test_cuda_is_not_started_before_the_workers_are_forked(tiny, no_store, monkeypatch):
    def started(*_):
        raise AssertionError("CUDA was started in the process that forks")

    monkeypatch.setattr(torch.cuda, "_lazy_init", started)
    train.train(only_small(tiny, epochs=1), "small")


def test_another_recipe_leaves_what_was_interrupted(tiny, no_store):
    only_small(tiny, epochs=LONG)
    process = begin(tiny)
    assert soon(lambda: checkpoint(tiny))
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=LIMIT)
    train.train(only_small(tiny, epochs=1, dropout=0.5), "small")
    assert checkpoint(tiny)
    for work in (tiny / ".trainyard" / "unfinished" / "digits" / "small").iterdir():
        long_ago = time.time() - (interrupted.KEPT_DAYS + 1) * 86400
        os.utime(work, (long_ago, long_ago))
    train.train(only_small(tiny, epochs=1, dropout=0.4), "small")
    assert not checkpoint(tiny)


def test_the_seconds_of_an_interrupted_training_count(tmp_path):
    first = interrupted.Clock(tmp_path / "seconds.json")
    first.started -= 100_000
    first.keep()
    assert interrupted.Clock(tmp_path / "seconds.json").seconds() == pytest.approx(100_000, abs=LIMIT)


def test_runs_end_whatever_fails_after_the_training(tiny, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(member_files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        train.train(only_small(tiny, epochs=1), "small")
    assert {run.info.status for run in runs()} == {"FAILED"}
    assert leaves_nothing(tiny)


def test_an_unknown_member_is_told_from_the_known_ones(tiny):
    with pytest.raises(InputError, match=r'unknown member "smal".*Did you mean "small"\?'):
        train.train(read(), "smal")
