"""Images that were taken in join the training split alone, and only as what they were taken in for."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import edit
from PIL import Image

from flows.data import added, image_file, sources
from flows.download import download
from flows.params.params_file import read
from flows.project.errors import InputError


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 1), np.uint8)


def put(pixels: np.ndarray, name: str) -> Path:
    file = added.folder("digits") / name / f"{added.digest(pixels)}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    image_file.encode(pixels, file)
    return file


def data(project: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file) for file in (project / "data/digits").glob("*.npy")}


def test_they_join_the_training_split_and_nothing_else(project):
    before_card = download(read())
    before = data(project)
    put(image(1), "3")
    put(image(2), "3")
    put(image(3), "0")
    card = download(read())
    after = data(project)
    assert card["counts"] == before_card["counts"] | {"train": before_card["counts"]["train"] + 3}
    assert card["test_sha256"] == before_card["test_sha256"]
    for name in ("test_images", "test_labels", "validation_indices"):
        np.testing.assert_array_equal(after[name], before[name])
    count = len(before["train_labels"])
    np.testing.assert_array_equal(after["train_images"][:count], before["train_images"])
    by_digest = {
        added.digest(pixels): int(label) for pixels, label in zip(after["train_images"], after["train_labels"])
    }
    assert [by_digest[added.digest(image(seed))] for seed in (1, 2, 3)] == [3, 3, 0]
    assert card["mean"] != before_card["mean"]
    [entry] = [entry for entry in card["provenance"] if entry["from"] == "sources/digits/added"]
    assert entry["file"] == "3 images"


def test_the_order_in_which_they_came_is_irrelevant(project):
    put(image(1), "3")
    put(image(2), "0")
    first = download(read())
    for file in added.folder("digits").rglob("*.png"):
        file.unlink()
    put(image(2), "0")
    put(image(1), "3")
    assert json.dumps(download(read())) == json.dumps(first)


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 4, 3)])
def test_an_image_is_the_same_after_it_was_stored(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image_file.encode(pixels, tmp_path / "image.png")
    np.testing.assert_array_equal(image_file.decode(tmp_path / "image.png", shape), pixels)


def test_one_that_became_a_test_image_is_left_out(project, capsys):
    images = sources.read("digits", read().feed.test)
    put(images.test_images[0], "3")
    assert len(added.join("digits", images).train_labels) == len(images.train_labels)
    assert "is a test image too and left out" in capsys.readouterr().err


def test_a_file_that_is_not_what_its_place_says_is_refused(project):
    images = sources.read("digits", read().feed.test)
    stranger = put(image(1), "3").with_name("by hand.png")
    image_file.encode(image(2), stranger)
    with pytest.raises(InputError, match="is not the image that its name says"):
        added.join("digits", images)
    stranger.unlink()
    put(image(3), "eleven")
    with pytest.raises(InputError, match="is in no folder of a class of digits"):
        added.join("digits", images)


def test_a_version_without_its_images_is_refused(project):
    added.dvc_file("digits").write_text("outs: []\n")
    with pytest.raises(InputError, match=r"run dvc checkout sources/digits/added\.dvc"):
        download(read())


def test_the_user_s_own_folder_takes_them_as_no_class(project):
    root = project / "sources/folder"
    edit(project, lambda content: content.update(dataset="folder"))
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for seed in range(8):
            Image.fromarray(image(seed + len(name) * ord(name[0]))[..., 0]).save(root / name / f"{seed}.png")
    before = sources.read("folder", 0.25)
    file = added.folder("folder") / "cat" / f"{added.digest(image(999))}.png"
    file.parent.mkdir(parents=True)
    image_file.encode(image(999), file)
    given = sources.read("folder", 0.25)
    assert given.class_names == ["cat", "dog"]
    np.testing.assert_array_equal(given.test_images, before.test_images)
    joined = added.join("folder", given)
    assert len(joined.train_labels) == len(before.train_labels) + 1
    assert joined.class_names[joined.train_labels[-1]] == "cat"
