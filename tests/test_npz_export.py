"""`trainyard export`: what it writes is what was trained, and numpy alone needs no more."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import ROOT, refused

from flows.commands import export
from flows.data import dataset
from flows.models import trained_members
from flows.project import file_io, paths
from lightning_modules import networks, sealed, weights


def exported(*arguments: str) -> str:
    return CliRunner().invoke(export.command, list(arguments), catch_exceptions=False).stdout


def arrays(file) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as content:
        return dict(content)


def log_probabilities(state: dict[str, np.ndarray], replica: int, card: dict, images: np.ndarray) -> np.ndarray:
    """What an mlp with one hidden layer of ReLUs says, in numpy and by the exported files alone."""
    values = ((images / 255 - card["mean"]) / card["std"]).transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = sorted({key.split(".")[1] for key in state}, key=int)
    first, last = ((state[f"{replica}.{name}.weight"], state[f"{replica}.{name}.bias"]) for name in names)
    logits = np.maximum(values @ first[0].T + first[1], 0) @ last[0].T + last[1]
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_the_exported_arrays_say_what_the_member_says(finished_copy):
    said = exported("small")
    folder = finished_copy / "exports" / "digits" / "small"
    assert said.splitlines()[1] == "exports/digits/small/weights.npz: 2 replicas of 4 arrays"
    card, state, data = (
        file_io.read_json(folder / "member.json"),
        arrays(folder / "weights.npz"),
        arrays(folder / "data.npz"),
    )
    assert card["recipe"]["network"] == {"name": "mlp", "hidden": [16], "batch_norm": False}
    for replica, predictor in enumerate(trained_members.load("digits", "small")[1]):
        expected = weights.predict(predictor, data["test_images"])
        found = log_probabilities(state, replica, card, data["test_images"])
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
        assert (found.argmax(1) == data["test_labels"]).mean() > 0.8
    assert not np.allclose(state["0.1.weight"], state["1.1.weight"])


def test_numpy_alone_computes_the_logits_of_the_mlp_that_ships_as_the_page_says(finished_copy):
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "logits" in block]
    recipe = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["members"]["mlp"] | {"replicas": 1}
    torch.manual_seed(0)
    state = networks.build(recipe, [8, 8, 1], 10).state_dict()
    small = file_io.read_json(paths.model_folder("digits", "small") / "member.json")
    card = {key: small[key] for key in ("shape", "class_names", "mean", "std")} | {"recipe": recipe}
    card["replicas"] = [{"weights_sha256": weights.digest(state)}]
    weights.save(paths.model_folder("digits", "mlp"), sealed.sealed(card), [state])
    for _ in export.export("digits", "mlp", paths.export_folder("digits", "mlp")):
        pass
    said: dict = {}
    exec(example, said)
    [predictor] = trained_members.load("digits", "mlp")[1]
    expected = weights.predict(predictor, said["data"]["test_images"]).numpy()
    assert np.ptp(said["logits"]) > 1
    np.testing.assert_allclose(
        said["logits"] - np.log(np.exp(said["logits"]).sum(1, keepdims=True)), expected, atol=1e-4
    )


def test_the_data_are_the_splits(finished, tmp_path):
    exported("wide", "--output", str(tmp_path))
    data, loaded = arrays(tmp_path / "data.npz"), dataset.load("digits")
    assert len(data) == 6
    for split in ("train", "validation", "test"):
        images, labels = loaded.split(split)
        assert np.array_equal(data[f"{split}_images"], images)
        assert data[f"{split}_images"].dtype == np.uint8
        assert np.array_equal(data[f"{split}_labels"], labels)
    assert len(data["train_labels"]) + len(data["validation_labels"]) == len(loaded.train_labels)


def test_other_files_stay_and_no_data_is_no_data(finished, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    exported("wide", "--output", str(tmp_path), "--no-data")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["member.json", "notes.txt", "weights.npz"]


def test_nothing_is_left_half_written(finished, tmp_path, monkeypatch):
    exported("small", "--output", str(tmp_path))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def broken(states):
        yield "0.1.weight", np.zeros(1000)
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "weights", broken)
    with pytest.raises(OSError, match="no space"):
        list(export.export("digits", "small", tmp_path))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_bad_input_is_one_sentence(finished_copy, capfd):
    assert 'unknown member "smal". Did you mean "small"?' in refused(capfd, export.command, "smal")
    assert "is a file: give a folder" in refused(
        capfd, export.command, "small", "--output", str(finished_copy / "params.yaml")
    )
    assert "models/blobs/small does not exist, and dataset is digits: run dvc exp run -S dataset=blobs train@small" in (
        refused(capfd, export.command, "small", "--dataset", "blobs")
    )
    assert 'unknown dataset "blob". Did you mean "blobs"?' in refused(
        capfd, export.command, "small", "--dataset", "blob"
    )
    shutil.rmtree(paths.model_folder("digits", "wide"))
    assert "models/digits/wide does not exist: run dvc repro train@wide" in refused(capfd, export.command, "wide")
    assert not paths.export_folder("digits", "wide").exists()
