"""One training by several processes, really started: that it learns what one process learns, and who writes."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import LIMIT, edit, environment, make_project, shrink, soon
from safetensors.torch import load_file
from torch.distributed import FileStore

from flows import train
from flows.download import download
from flows.params.params_file import Params, parse
from flows.project.errors import InputError, UnavailableError
from flows.tracking import experiments, mlflow_store
from flows.training.launch import Launch, launch
from lightning_modules import distributed, sealed
from lightning_modules.distributed import ProcessGroup
from lightning_modules.fit import Fitted, fit
from lightning_modules.regularization.dropout import Dropout

# Of 1,222 training images: the last mini-batch has one, so that of two processes one has none.
BATCH_SIZE = 111
LONG = 100_000  # epochs, to be killed in

SRUN = {
    "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1",
    "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_LOCALID": "0",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1",
}  # fmt: skip


def over(folder: Path, devices: int = 1, num_nodes: int = 1, epochs: int = 2, **recipe) -> Params:
    """Params whose mini-batches are divided among devices × num_nodes processes."""

    def change(content: dict) -> None:
        content["data"]["digits"] |= {"epochs": epochs, "batch_size": BATCH_SIZE, "augment": "shift_flip"}
        content["training"] |= {"devices": devices, "num_nodes": num_nodes, "strategy": "ddp"}
        small = content["members"]["small"] | {"dropout": 0.2, "replicas": 1}
        content["members"] = {"small": small | recipe}

    return edit(folder, change)


def begin(folder: Path, *command: str, **env: str) -> subprocess.Popen:
    command = command or (sys.executable, "-m", "flows.train")
    return subprocess.Popen(
        [*command, "small"], cwd=folder, env=environment(**env), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / "digits" / "small" / "weights.safetensors")


def history(folder: Path) -> list[list[float]]:
    _, *rows = (folder / "models" / "digits" / "small" / "history.csv").read_text().split()
    return [[float(value) for value in row.split(",")] for row in rows]


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / ".trainyard" / "unfinished" / "digits" / "small").glob("*/*.ckpt"))


def assert_learned_alike(folder: Path, other: Path) -> None:
    torch.testing.assert_close(weights(folder), weights(other), rtol=1e-4, atol=1e-5)
    assert history(folder) == [pytest.approx(row, rel=1e-4) for row in history(other)]


def free_port() -> str:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return str(port.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What one process makes of whole mini-batches."""
    folder = make_project(tmp_path_factory.mktemp("alone") / "a project")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        download(edit(folder, shrink))
        train.train(over(folder), "small")
    return folder


def test_two_processes_of_torchrun_learn_what_one_does(tiny, alone, no_store):
    assert 1222 % BATCH_SIZE == 1
    over(tiny, devices=2)
    process = begin(
        tiny, sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
        "flows.train", MLFLOW_TRACKING_URI=no_store,
    )  # fmt: skip
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert_learned_alike(tiny, alone)
    assert said.count("small-0: finished") == 1
    assert said.count("validation accuracy") == 1
    assert said.count("MLflow at") == 1


def test_what_is_done_to_whole_mini_batches_and_before_training_is_as_in_one_process(tiny, no_store, tmp_path):
    given = {
        "activation": "sigmoid",
        "initializer": {"name": "rbm", "epochs": 2},
        "loss": "binary_cross_entropy",
        "regularization": {"l1": 1e-4, "l2": 1e-3, "clip_norm": 0.1, "max_norm": 1.0, "mixup": 0.4, "cutout": 0.3},
    }
    one = tmp_path / "one"
    shutil.copytree(tiny, one)
    with contextlib.chdir(one):
        train.train(over(one, **given), "small")
    over(tiny, devices=2, **given)
    process = begin(tiny, MLFLOW_TRACKING_URI=no_store)
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert_learned_alike(tiny, one)


def test_of_two_nodes_the_first_alone_writes(tiny, alone, store, tmp_path, monkeypatch):
    """The second node has a folder and a store of its own, in which nothing may happen."""
    over(tiny, num_nodes=2)
    second = tmp_path / "second"
    shutil.copytree(tiny, second)
    before = tree(second)
    common = SRUN | {"MASTER_PORT": free_port()}
    nodes = [
        begin(folder, **common, SLURM_PROCID=str(number), SLURM_NODEID=str(number))
        for number, folder in enumerate((tiny, second))
    ]
    for node in nodes:
        said, _ = node.communicate(timeout=LIMIT)
        assert node.returncode == 0, said
    assert said == ""
    assert tree(second) == before | {second / ".trainyard": None}  # which it looks into
    assert_learned_alike(tiny, alone)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = mlflow_store.connect()
    runs = client.search_runs([experiments.experiment(client, "digits")])
    assert sorted(run.data.tags["trainyard.kind"] for run in runs) == ["member", "replica"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["processes"] for run in runs} == {"2"}


def at_work(command: subprocess.Popen, gone: Collection[psutil.Process] = ()) -> list[psutil.Process]:
    """The two processes that train for long: beside them there are children of a moment, such as git, and one of
    multiprocessing's own."""
    processes: list[psutil.Process] = []

    def trains(child: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return child not in gone and "resource_tracker" not in " ".join(child.cmdline())
        return False

    def alone() -> bool:
        assert command.poll() is None
        processes[:] = filter(trains, psutil.Process(command.pid).children())
        return len(processes) == 2

    assert soon(alone)
    return processes


def test_the_command_that_is_killed_takes_its_processes_along(tiny, no_store):
    over(tiny, devices=2, epochs=LONG)
    command = begin(tiny, MLFLOW_TRACKING_URI=no_store)
    assert soon(lambda: checkpoints(tiny))
    processes = at_work(command)
    command.kill()
    command.communicate(timeout=LIMIT)
    assert soon(lambda: not any(child.is_running() for child in processes))
    assert not (tiny / "models").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_takes_the_others_along_and_all_go_on_once(tiny, no_store, number):
    over(tiny, devices=2, epochs=LONG)
    command = begin(tiny, MLFLOW_TRACKING_URI=no_store)
    assert soon(lambda: checkpoints(tiny))
    first = at_work(command)
    os.kill(max(child.pid for child in first), number)
    assert soon(lambda: not any(child.is_running() for child in first))
    second = at_work(command, gone=first)
    os.kill(max(child.pid for child in second), number)
    said, _ = command.communicate(timeout=LIMIT)
    assert command.returncode == 1, said
    assert said.count("is tried once more") == 1
    assert f"the process that trained small was ended by {number.name} " in said
    assert "for the second time" in said
    assert soon(lambda: not any(child.is_running() for child in second))
    assert not (tiny / "models").exists()


def test_a_terminated_training_goes_on_to_the_same_weights(tiny, no_store, tmp_path, capfd):
    params = over(tiny, devices=2, epochs=12, replicas=2)
    uninterrupted = tmp_path / "uninterrupted"
    shutil.copytree(tiny, uninterrupted)
    with contextlib.chdir(uninterrupted):
        train.train(params, "small")

    command = begin(tiny, MLFLOW_TRACKING_URI=no_store)
    assert soon(lambda: checkpoints(tiny))
    command.terminate()
    command.communicate(timeout=LIMIT)
    assert command.returncode == 143
    assert not (tiny / "models").exists()
    train.train(params, "small")
    assert "going on with a training that was interrupted" in capfd.readouterr().out
    expected = weights(uninterrupted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tiny).items())


def among(rank: int, size: int) -> ProcessGroup:
    """A process that has met no other."""
    group = ProcessGroup.__new__(ProcessGroup)
    group.rank, group.size = rank, size
    group.told = lambda value: value
    return group


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_parts_are_of_nearly_equal_size_and_make_up_the_whole_and_the_first_is_never_empty(size):
    for count in range(1, 20):
        parts = [range(*among(rank, size).part(count)) for rank in range(size)]
        assert [number for part in parts for number in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        # Its statistics of batch normalisation are kept.
        assert len(parts[0]) >= 1


@pytest.fixture
def met(tmp_path, monkeypatch):
    """The file by which two processes meet, as the other one leaves it; this process is the first."""
    for name, value in {"LOCAL_RANK": "0", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    return FileStore(str(tmp_path / "meeting"), 2)


def test_nodes_with_other_accelerators_are_told_so_and_do_not_wait(met):
    met.set("trainyard/1", "nccl")
    met.set("trainyard/1/read", "")
    with pytest.raises(InputError, match=r"of the 2 processes .* only 1 \(counted from 0\) found a GPU"):
        ProcessGroup("", "cpu", 2, 1, Path(met.path))


def test_who_waits_in_vain_says_for_whom(met, monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=0.1))
    with pytest.raises(UnavailableError, match=r"the 2 processes .* have not all come to .*/meeting within 0\.1 s"):
        ProcessGroup("", "cpu", 2, 1, Path(met.path))


@pytest.mark.parametrize("there", [True, False])
def test_a_checkpoint_that_only_some_nodes_have_stops_all_of_them(tmp_path, there):
    checkpoint = tmp_path / "checkpoint"
    if there:
        checkpoint.touch()
        sealed.seal(checkpoint)
    group = among(0, 2)
    group.all = lambda value: [value, not value]
    group.for_trainer = dict
    with pytest.raises(InputError, match="is not the same for all nodes"):
        learn(group, checkpoint=checkpoint)


def learn(group: ProcessGroup | None, changed: dict | None = None, **more) -> Fitted:
    """Some epochs of a network with batch normalisation, until no epoch is better. `changed`: keys of its recipe."""
    chance = np.random.default_rng(0)
    labels = np.arange(41) % 2
    images = chance.integers(0, 128, (41, 8, 8, 1)) + 100 * labels[:, None, None, None]
    recipe = {
        "network": {"name": "resnet", "width": 4, "blocks": [1]}, "optimizer": {"name": "adam", "lr": 0.05},
        "activation": "relu", "initializer": "he_normal", "dropout": 0.0, "label_smoothing": 0.0,
        "schedule": "constant", **(changed or {}),
    }  # fmt: skip
    split = images.astype(np.uint8), labels.astype(np.int64)
    return fit(
        recipe, split, split, seed=0, mean=[0.5], std=[0.3], class_names=["dark", "light"], epochs=12, batch_size=20,
        early_stopping=2, group=group, **more,
    )  # fmt: skip


def one_of_two(rank: int, meeting: Path, answers, changed: dict | None = None) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    group = ProcessGroup("", "cpu", 2, 1, meeting)
    listening = {it.laddr.ip for it in psutil.Process().net_connections() if it.status == psutil.CONN_LISTEN}
    found = learn(group, changed)
    answers.put((listening, found.history, found.best_epoch, {name: it.tolist() for name, it in found.state.items()}))
    group.leave()


def test_two_processes_stop_early_at_once_with_the_same_statistics_and_listen_to_nobody_else(tmp_path):
    context = multiprocessing.get_context("forkserver")
    answers = context.Queue()
    both = [context.Process(target=one_of_two, args=(rank, tmp_path / "meeting", answers)) for rank in range(2)]
    for process in both:
        process.start()
    one, two = (answers.get(timeout=LIMIT) for _ in both)
    for process in both:
        process.join(LIMIT)
        assert process.exitcode == 0
    assert one == two
    listening, history, best, state = one
    assert listening <= {"127.0.0.1", "::1"}
    assert best + 2 == len(history) < 12
    running = {name: torch.tensor(values) for name, values in state.items() if "running" in name}
    assert running
    assert all(torch.isfinite(values).all() for values in running.values())


def test_two_processes_divide_the_parts_of_a_full_batch(tmp_path):
    """The last part of the training split, which is one step, has one image: the second process has none of it."""
    descent = {
        "network": {"name": "mlp", "hidden": [8]}, "dropout": 0.3,
        "optimizer": {"name": "gradient_descent", "lr": 0.5, "weight_decay": 0.0},
    }  # fmt: skip
    context = multiprocessing.get_context("forkserver")
    answers = context.Queue()
    both = [
        context.Process(target=one_of_two, args=(rank, tmp_path / "meeting", answers, descent)) for rank in range(2)
    ]
    for process in both:
        process.start()
    one, two = (answers.get(timeout=LIMIT) for _ in both)
    for process in both:
        process.join(LIMIT)
    assert one == two
    alone = learn(None, descent)
    _, history, _, state = one
    assert [list(row.values()) for row in history] == [
        pytest.approx(list(row.values()), rel=1e-4) for row in alone.history
    ]
    for name, values in alone.state.items():
        torch.testing.assert_close(torch.tensor(state[name]), values, rtol=1e-4, atol=1e-5)


def test_the_parts_of_a_dropout_mask_make_up_that_of_the_whole():
    values = torch.ones(7, 5)
    parts = []
    for first, end in ((0, 7), (0, 3), (3, 7)):
        torch.manual_seed(0)
        layer = Dropout(0.5)
        layer.part = (first, 7)
        parts.append(torch.stack([layer(values[first:end]) for _ in range(20)]))
    whole, *rest = parts
    assert torch.equal(torch.cat(rest, 1), whole)
    torch.manual_seed(0)
    layer = Dropout(0.5)
    assert torch.equal(torch.stack([layer(values) for _ in range(20)]), whole)


@pytest.fixture
def training(project, monkeypatch):
    """Makes a `training` section; the test's own environment says nothing of any launcher."""
    edit(project, shrink)
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", *SRUN, *TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    return lambda **places: over(project, **places).training


def test_one_process_is_what_it_always_was(training):
    assert launch(training(devices=1)) is None


def test_a_command_starts_the_processes_of_its_node(training, monkeypatch):
    part = launch(training(devices=3))
    assert (part.by, part.local_ranks, part.leads) == ("", (0, 1, 2), True)
    by_hand = {"MASTER_ADDR": "first", "MASTER_PORT": "29500", "NODE_RANK": "1"}
    for name, value in by_hand.items():
        monkeypatch.setenv(name, value)
    assert launch(training(devices=3, num_nodes=2)) == Launch("", 3, 2, (0, 1, 2), False, by_hand)


@pytest.mark.parametrize("started", [TORCHRUN, SRUN | {"SLURM_PROCID": "1"}])
def test_a_command_that_was_started_for_one_process_starts_one(training, monkeypatch, started):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    by = {"devices": 2} if started is TORCHRUN else {"num_nodes": 2}
    part = launch(training(**by))
    assert part.local_ranks == (int(started.get("LOCAL_RANK", started.get("SLURM_LOCALID"))),)
    assert not part.leads
    with pytest.raises(InputError, match=r"started 2 processes, but by params\.yaml a replica trains in one"):
        launch(training(devices=1))
    with pytest.raises(InputError, match=r"training\.devices 4 and training\.num_nodes 2: start them with \w+ .*2.*4"):
        launch(training(devices=4, num_nodes=2))


def test_a_script_of_slurm_without_srun_starts_its_own(training, monkeypatch):
    for name, value in (SRUN | {"SLURM_STEP_ID": str(2**32 - 5)}).items():
        monkeypatch.setenv(name, value)
    assert launch(training(devices=2)).by == ""


def test_several_nodes_have_to_be_started_somehow(training, monkeypatch):
    with pytest.raises(InputError, match=r"num_nodes is 2, so start this on every node: by torchrun or srun"):
        launch(training(num_nodes=2))
    for name, value in {"MASTER_ADDR": "first", "MASTER_PORT": "29500", "NODE_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"NODE_RANK is 2, but with training\.num_nodes 2 the nodes are 0 to 1"):
        launch(training(num_nodes=2))
    monkeypatch.setenv("NODE_RANK", "two")
    with pytest.raises(InputError, match=r"NODE_RANK is 'two', but has to be a whole number"):
        launch(training(num_nodes=2))


def test_places_that_cannot_be_are_refused_at_once(project):
    edit(project, shrink)
    content = over(project).model_dump()
    with pytest.raises(InputError, match=r"member small is trained with a batch_size of 111, too small to be divided"):
        parse(content | {"training": content["training"] | {"devices": 56, "num_nodes": 2}})
    with pytest.raises(InputError, match=r"training: num_nodes is 2, but by strategy auto a replica trains on one"):
        parse(content | {"training": content["training"] | {"num_nodes": 2, "strategy": "auto"}})
    with pytest.raises(InputError, match=r"training\.strategy is 'fsdp', but should be 'auto' or 'ddp'"):
        parse(content | {"training": content["training"] | {"strategy": "fsdp"}})


def test_fewer_validation_images_than_processes_are_refused(tiny):
    with pytest.raises(InputError, match=r"216 validation images cannot be divided among 217 processes"):
        train.train(over(tiny, devices=217, batch_size=1000), "small")
