"""A trained member on disk: what was saved is what is loaded, by the folder alone."""

import json
import os
import subprocess
import sys
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from lightning_modules import networks, sealed, weights
from lightning_modules.errors import DamagedError
from lightning_modules.images import normalize
from lightning_modules.views import VIEWS

NETWORKS = {
    "mlp": {"name": "mlp", "hidden": [16]},
    "cnn": {"name": "cnn", "channels": [4, 4, 4, 4, 4], "hidden": 8},
    "resnet": {"name": "resnet", "width": 4, "blocks": [1, 1]},
    "airbench": {"name": "airbench", "widths": [4, 4, 4], "depth": 3},
}
SHAPE = (8, 8, 3)


def card(name: str) -> dict:
    recipe = {"network": NETWORKS[name], "activation": "relu", "initializer": "he_normal", "dropout": 0.5}
    return {
        "recipe": recipe, "shape": list(SHAPE), "class_names": ["äpfel", "pears", "figs"],
        "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1], "replicas": [{"seed": 0}, {"seed": 1}], "note": "kept",
    }  # fmt: skip


def trained(name: str, seed: int) -> torch.nn.Module:
    """A network whose every number, BatchNorm's running ones included, is its own."""
    torch.manual_seed(seed)
    network = networks.build(card(name)["recipe"], SHAPE, 3)
    network.train()(torch.randn(16, 3, 8, 8) * 2 + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (25, *SHAPE), np.uint8)


@pytest.fixture(params=NETWORKS)
def member(request, tmp_path):
    """The folder of a saved member and its networks."""
    name = request.param
    replicas = [trained(name, seed) for seed in (0, 1)]
    folder = tmp_path / "a dataset" / name
    weights.save(folder, card(name), [network.state_dict() for network in replicas])
    return folder, name, replicas


def test_a_loaded_replica_predicts_as_the_saved_one(member, images):
    folder, name, replicas = member
    loaded, predictors = weights.load(folder)
    assert loaded == card(name)
    assert len(predictors) == 2
    for network, predictor in zip(replicas, predictors):
        expected = weights.Predictor(network, loaded["mean"], loaded["std"]).eval()
        assert torch.equal(weights.predict(predictor, images), weights.predict(expected, images))
        assert not any(module.training for module in predictor.modules())
    first, second = (weights.predict(predictor, images) for predictor in predictors)
    assert not torch.allclose(first, second)


def test_batches_and_rows_change_no_prediction(images):
    predictor = weights.Predictor(trained("cnn", 0), card("cnn")["mean"], card("cnn")["std"]).eval()
    whole, rows = weights.predict(predictor, images), np.array([3, 4, 9, 20, 24])
    assert whole.shape == (25, 3)
    assert torch.allclose(weights.predict(predictor, images, batch_size=4), whole, atol=1e-6)
    assert torch.allclose(weights.predict(predictor, images, batch_size=2, rows=rows), whole[rows], atol=1e-6)


def test_a_recipe_with_views_predicts_their_mean(tmp_path, images):
    network, given = trained("cnn", 0), card("cnn")
    given["recipe"]["test_time_views"] = "mirror"
    given["replicas"] = [{"seed": 0}]
    weights.save(tmp_path, given, [network.state_dict()])
    (predictor,) = weights.load(tmp_path)[1]
    predicted = weights.predict(predictor, images)
    torch.testing.assert_close(predicted, weights.predict(predictor, images[:, :, ::-1].copy()))
    plain = weights.Predictor(network, given["mean"], given["std"]).eval()
    sides = [
        plain.network(normalize(torch.tensor(one), plain.mean, plain.std))
        for one in (images, images[:, :, ::-1].copy())
    ]
    torch.testing.assert_close(predicted, (sum(sides) / 2).log_softmax(1))


@pytest.mark.parametrize("views", VIEWS)
def test_what_is_exported_takes_any_number_of_images_with_every_view(views, images):
    predictor = weights.Predictor(trained("airbench", 0), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1], views).eval()
    example = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    dimensions = ({0: torch.export.Dim("images", min=1)},)
    program = torch.export.export(predictor, (example,), dynamic_shapes=dimensions, strict=False).module()
    expected = weights.predict(predictor, images)
    for count in (1, 7, 25):
        with torch.inference_mode():
            torch.testing.assert_close(program(torch.tensor(images[:count])), expected[:count])


def test_a_prediction_is_a_log_probability_whatever_the_batches(member, images):
    predictor = weights.load(member[0])[1][0]
    whole = weights.predict(predictor, images)
    assert whole.shape == (25, 3)
    assert whole.device.type == "cpu"
    assert whole.exp().sum(1) == pytest.approx(torch.ones(25), abs=1e-5)
    torch.testing.assert_close(weights.predict(predictor, images, batch_size=7), whole)
    images.setflags(write=False)  # as a memory map is
    assert torch.equal(weights.predict(predictor, images), whole)


def test_a_predictor_normalises_by_itself(member, images):
    folder, _, replicas = member
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.1])
    given = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.inference_mode():
        expected = replicas[0](given).log_softmax(1)
    torch.testing.assert_close(weights.predict(weights.load(folder)[1][0], images), expected, atol=1e-4, rtol=1e-4)


def test_they_load_by_themselves_in_another_place(images, tmp_path):
    for name in NETWORKS:
        weights.save(tmp_path / "saved" / name, card(name), [trained(name, seed).state_dict() for seed in (0, 1)])
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    code = (
        "import sys; import numpy as np; from pathlib import Path; from lightning_modules import weights\n"
        "for folder in Path(sys.argv[1]).iterdir():\n"
        "    card, predictors = weights.load(folder)\n"
        "    np.save(f'{folder.name}.npy', weights.predict(predictors[0], np.load(sys.argv[2])).numpy())\n"
        "assert not any(name.startswith('flows') for name in sys.modules)\n"
    )
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "nowhere").mkdir()
    subprocess.run(
        [sys.executable, "-c", code, moved, tmp_path / "images.npy"],
        cwd=tmp_path / "nowhere", env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True,
    )  # fmt: skip
    for name in NETWORKS:
        expected = weights.predict(weights.load(moved / name)[1][0], images)
        np.testing.assert_allclose(np.load(tmp_path / "nowhere" / f"{name}.npy"), expected.numpy(), atol=1e-5)


def test_nothing_on_disk_is_a_pickle(member):
    folder, name, _ = member
    assert sorted(path.name for path in folder.iterdir()) == ["member.json", "weights.safetensors"]
    content = (folder / "weights.safetensors").read_bytes()
    # A safetensors file is the length of a JSON header, the header, and numbers.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {key.split(".")[0] for key in header} == {"0", "1"}
    assert not zipfile.is_zipfile(folder / "weights.safetensors")  # as torch's pickles are
    assert sealed.opened(json.loads((folder / "member.json").read_text(encoding="utf-8")), folder) == card(name)
    assert "äpfel" in (folder / "member.json").read_text(encoding="utf-8")


def test_the_same_weights_make_the_same_bytes(member, tmp_path):
    folder, name, replicas = member
    weights.save(tmp_path / "again", card(name), [network.state_dict() for network in replicas])
    for file in ("weights.safetensors", "member.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_others_may_read_what_was_saved(member):
    modes = {path.name: path.stat().st_mode & 0o777 for path in member[0].iterdir()}
    assert modes["weights.safetensors"] == modes["member.json"]


def test_a_digest_is_stable():
    state = {"b": torch.arange(4.0), "a": torch.tensor(3), "c": torch.tensor([True])}
    assert weights.digest(state) == weights.digest(dict(sorted(state.items())))
    assert weights.digest(state) == "46fa14453d999947243ebddfa5c1bff193d4e0ee0170658966ac11eef4be81d0"


def test_a_digest_is_the_same_after_saving_and_in_another_memory_layout(member):
    folder, _, replicas = member
    state = replicas[0].state_dict()
    loaded = weights.load(folder)[1][0].network.state_dict()
    assert weights.digest(loaded) == weights.digest(state)
    other = replicas[0].to(memory_format=torch.channels_last).state_dict()
    assert weights.digest(other) == weights.digest(state)


def test_a_digest_tells_every_single_number(member):
    state = member[2][0].state_dict()
    before = weights.digest(state)
    for name, tensor in state.items():
        changed = tensor.clone()
        if changed.is_floating_point():
            changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(1e9))
        else:
            changed += 1
        assert weights.digest(state | {name: changed}) != before, name
    renamed = {f"x{name}": tensor for name, tensor in state.items()}
    assert weights.digest(renamed) != before


def flipped(file, position: int) -> bytes:
    """Flips a byte of a file; returns what was there."""
    before = file.read_bytes()
    content = bytearray(before)
    content[position] ^= 0x10
    file.write_bytes(content)
    return before


def test_no_flipped_byte_is_loaded(member):
    folder, _, replicas = member
    card = weights.read_card(folder)
    for replica, network in zip(card["replicas"], replicas):
        replica["weights_sha256"] = weights.digest(network.state_dict())
    weights.save(folder, card, [network.state_dict() for network in replicas])
    assert weights.load(folder)[0] == card
    for name in ("weights.safetensors", "member.json"):
        file = folder / name
        size = file.stat().st_size
        for position in {*range(0, size, max(size // 100, 1)), size - 2}:
            before = flipped(file, position)
            with suppress(DamagedError):
                loaded = weights.load(folder)[0]
                # White space between two values of the card, or the name of its digest.
                assert {key: loaded.get(key) for key in card} == card
            file.write_bytes(before)
    for name in ("weights.safetensors", "member.json"):
        for length in (0, 3, (folder / name).stat().st_size // 2):
            before = (folder / name).read_bytes()
            (folder / name).write_bytes(before[:length])
            with pytest.raises(DamagedError, match=name):
                weights.load(folder)
            (folder / name).write_bytes(before)


def test_a_member_from_before_there_were_digests_is_loaded(member, images):
    folder, name, _ = member
    (folder / "member.json").write_text(json.dumps(card(name)))
    assert weights.load(folder)[0] == card(name)
