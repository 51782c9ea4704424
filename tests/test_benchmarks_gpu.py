"""The GPU's table, tried at a tiny size on the CPU: every part gives its rows, and a failing one does not end it."""

import copy
import gzip
import json
import math
import pickle
import struct
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_data, gpu_together
from benchmarks.gpu_card import SIZES, Budget, Card, row
from benchmarks.rivals import airbench_script
from benchmarks.rivals.functional import ByStreams, ByVmap
from lightning_modules import names, networks, optimizers
from lightning_modules.errors import InputError
from lightning_modules.images import Images

TINY, CPU = SIZES["tiny"], Card(torch.device("cpu"))


def split(channels: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 8, 8, channels), np.uint8), np.arange(count) % 10


@pytest.fixture
def folder(tmp_path):
    for dataset, channels in gpu_data.CHANNELS.items():
        (tmp_path / dataset).mkdir()
        for name, count in (("train", 60), ("test", 20)):
            for kind, array in zip(("images", "labels"), split(channels, count, count)):
                np.save(tmp_path / dataset / f"{name}_{kind}.npy", array)
    return tmp_path


@pytest.mark.long
def test_the_whole_command(folder, capsys, monkeypatch):
    file = folder / "table.json"
    monkeypatch.setattr(gpu, "COMPILATION", math.inf)  # seconds that have to be left for it: a CPU need not try
    monkeypatch.setattr(gpu_together, "ROUNDS", 1)
    assert gpu.main([str(folder), "--minutes", "600", "--json", str(file), "--device", "cpu", "--size", "tiny"]) == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    whats = [found["what"] for found in content["rows"]]
    # torch 2.14 on a CPU refuses batch normalisation by vmap in bfloat16; a rival's failure ends nothing.
    statuses = {found["status"] for found in content["rows"] if "ResNet by torch.func.vmap" not in found["what"]}
    assert statuses == {
        "not yet measured, tried",
        "not yet measured: no time was left",  # of the compilation
    }
    for word in (
        "no wait",
        "airbench, 1 epochs",
        "compiled",
        "the fastest way",
        "deterministic",
        "MNIST",
        "airbench96",
        "2 × MLP as one",
        "vmap",
        "streams",
    ):
        assert any(word in what for what in whats), word
    assert all(found["reached"] is None and found["device"] == "cpu" for found in content["rows"])
    printed = capsys.readouterr().out
    assert printed.count("\n|") == len(whats) + 1
    assert content["conditions"]["torch"] == torch.__version__


def test_without_a_gpu_it_says_so_in_one_sentence(folder, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([str(folder)]) == 1
    assert capsys.readouterr().err == gpu.NO_GPU + "\n"
    rows = gpu.measure()
    assert {found["status"] for found in rows} == {"not yet measured"}
    assert [found["goal"] for found in rows] == [planned.goal for planned in gpu.PLAN]


def test_a_part_that_fails_is_a_row_and_the_others_go_on(monkeypatch):
    def fails(*_):
        yield row("first")
        raise RuntimeError("no luck")

    def works(*_):
        yield row("last")

    monkeypatch.setattr(gpu, "PLAN", [gpu.Planned("a", fails, 0.5, "x"), gpu.Planned("b", works, 0.5, "y")])
    kept: list[list[dict]] = []
    rows = gpu.run({}, CPU, TINY, 60, kept.append)
    assert [found["what"] for found in rows] == ["first", "a", "last"]
    assert rows[1]["status"] == "failed: RuntimeError: no luck"
    assert [len(part) for part in kept] == [2, 3]


def test_what_there_is_no_time_for_is_not_measured():
    rows = gpu.run({}, CPU, TINY, 0, lambda rows: None)
    assert {found["status"] for found in rows} == {"not yet measured: no time was left"}


def test_a_budget_ends_before_it_is_overrun():
    assert len(Budget(60).repeat(4, lambda number: {"number": number})) == 4
    assert Budget(0).repeat(4, lambda number: {"number": number}) == [{"number": 0}]
    assert Budget(60).part(10).left() <= 10


def test_a_folder_without_the_data_is_one_sentence(tmp_path, capsys):
    assert gpu.main([str(tmp_path), "--device", "cpu"]) == 1
    assert "holds no cifar10" in capsys.readouterr().err


def test_pieces_are_put_together(folder):
    whole = np.load(folder / "cifar10" / "train_images.npy")
    (folder / "cifar10" / "train_images.npy").unlink()
    for number in range(12):  # more than nine: 10 comes after 2
        np.save(folder / "cifar10" / f"train_images.{number}.npy", whole[5 * number : 5 * number + 5])
    found = gpu_data.load(folder, "cifar10")
    assert np.array_equal(found.train[0], whole)
    assert found.mean == pytest.approx((whole / 255).mean((0, 1, 2)))
    assert found.std == pytest.approx((whole / 255).std((0, 1, 2)))


def test_torchvisions_layout_is_read(tmp_path):
    random = np.random.default_rng(0)
    batches, raw = tmp_path / "cifar-10-batches-py", tmp_path / "MNIST" / "raw"
    batches.mkdir()
    raw.mkdir(parents=True)
    written = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels, labels = random.integers(0, 256, (20, 3072), np.uint8), random.integers(0, 10, 20).tolist()
        written[name] = pixels, labels
        (batches / name).write_bytes(python_2_pickle(pixels.tobytes(), labels))
    for name, count in (("train", 12), ("t10k", 6)):
        pixels = random.integers(0, 256, (count, 28, 28), np.uint8)
        head = struct.pack(">4i", 2051, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
        head = struct.pack(">2i", 2049, count)
        (raw / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes(range(count))))
        written[name] = pixels
    cifar10, mnist = gpu_data.load(tmp_path, "cifar10"), gpu_data.load(tmp_path, "mnist")
    assert cifar10.train[0].shape == (100, 32, 32, 3)
    assert np.array_equal(cifar10.test[0].transpose(0, 3, 1, 2).reshape(20, 3072), written["test_batch"][0])
    assert cifar10.train[1].tolist() == [
        label for number in range(1, 6) for label in written[f"data_batch_{number}"][1]
    ]
    assert np.array_equal(mnist.train[0][..., 0], written["train"])
    assert mnist.test[1].tolist() == list(range(6))


def python_2_pickle(pixels: bytes, labels: list[int]) -> bytes:
    """{"data": pixels, "labels": labels} as Python 2 wrote it, with strings of bytes."""
    string = b"T" + struct.pack("<i", len(pixels)) + pixels
    numbers = b"]q\x01(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    content = b"\x80\x02}q\x00(U\x04data" + string + b"U\x06labels" + numbers + b"u."
    assert pickle.loads(content, encoding="latin1")["labels"] == labels
    return content


def test_a_file_that_is_no_batch_is_refused(tmp_path):
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({"labels": [1, 2]}, protocol=2))
    with pytest.raises(InputError, match="no batch of CIFAR-10"):
        gpu_data.cifar10_batch(file)


def test_the_bare_script_learns():
    images, labels = split(3, 200, 0)
    images[np.arange(200), 0, 0], images[..., 1] = 255, (25 * labels)[:, None, None]
    data = torch.from_numpy(images), torch.from_numpy(labels)
    recipe = airbench_script.Recipe(epochs=8, batch_size=20, widths=(16, 16), reach=1, filter_rate=0.1)
    assert airbench_script.run(data, data, [0.5] * 3, [0.3] * 3, recipe, 0)["accuracy"] > 0.5


def test_the_bare_script_has_our_network():
    ours = networks.build(
        names.DEFAULTS | {"network": {"name": "airbench", **names.NETWORKS["airbench"]}, "activation": "gelu"},
        (32, 32, 3), 10,
    )  # fmt: skip
    theirs = airbench_script.build(32, (64, 256, 256))
    filters = [sorted(list(p.shape) for p in one.parameters() if p.ndim == 4) for one in (ours, theirs)]
    assert [24, 3, 2, 2] in filters[1]  # a buffer of ours
    filters[1].remove([24, 3, 2, 2])
    assert filters[0] == filters[1]
    assert ours(torch.randn(2, 3, 32, 32)).shape == theirs(torch.randn(2, 3, 32, 32)).shape


@pytest.mark.parametrize("way", [ByVmap, ByStreams])
@pytest.mark.parametrize("name", TINY.networks)
def test_the_other_ways_take_the_step_that_each_would_take_alone(way, name):
    recipe = names.DEFAULTS | {"network": TINY.networks[name]}
    optimizer = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}
    images = Images(*split(1, 12, 0), [0.5], [0.25])
    index = torch.stack([torch.randperm(12)[:6] for _ in range(3)])
    alone = []
    for seed in range(3):
        torch.manual_seed(seed)
        alone.append(networks.build(recipe, (8, 8, 1), 10))
    trained = way(copy.deepcopy(alone), images, optimizer, nullcontext)
    trained.step(index)
    for number, network in enumerate(alone):
        batch, labels = images.batch(index[number])
        torch.nn.functional.cross_entropy(network(batch), labels).backward()
        optimizers.build(optimizer, network.parameters()).step()
        for entry, value in trained.state(number).items():
            torch.testing.assert_close(value, network.state_dict()[entry], atol=1e-5, rtol=1e-4)
