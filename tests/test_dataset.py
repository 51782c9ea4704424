"""What is loaded is what was downloaded, or a sentence says which file is not."""

import json

import numpy as np
import pytest
import yaml

from flows.data import dataset, plain_arrays
from flows.download import download
from flows.params import params_file
from flows.project.errors import InputError


@pytest.fixture
def blobs(project):
    """The folder of a downloaded dataset."""
    download(params_file.parse(yaml.safe_load((project / "params.yaml").read_text()) | {"dataset": "blobs"}))
    return project / "data" / "blobs"


def test_every_image_is_in_exactly_one_split(blobs):
    data = dataset.load("blobs")
    splits = {name: data.split(name) for name in ("train", "validation", "test")}
    assert {name: len(labels) for name, (_, labels) in splits.items()} == data.card["counts"]
    train, validation = splits["train"], splits["validation"]
    assert (validation[0] == data.train_images[data.validation_indices]).all()
    assert (validation[1] == data.train_labels[data.validation_indices]).all()
    rest = np.setdiff1d(np.arange(len(data.train_labels)), data.validation_indices)
    assert (train[0] == data.train_images[rest]).all()
    assert (train[1] == data.train_labels[rest]).all()


def test_a_part_of_the_files_is_the_split_and_copies_nothing(blobs):
    data = dataset.load("blobs")
    for name in ("train", "validation", "test"):
        images, labels, rows = data.split_view(name)
        assert images is data.test_images if name == "test" else images is data.train_images
        chosen = slice(None) if rows is None else rows
        whole_images, whole_labels = data.split(name)
        assert (images[chosen] == whole_images).all()
        assert (labels[chosen] == whole_labels).all()
        assert (data.labels(name) == whole_labels).all()


def test_splits_are_plain_arrays_that_may_be_written_to_and_the_files_may_not(blobs):
    data = dataset.load("blobs")
    for name in ("train", "validation", "test"):
        images, labels = data.split(name)
        assert type(images) is type(labels) is np.ndarray
        images[:] = labels[:] = 0
    assert dataset.load("blobs").test_images.any()
    with pytest.raises(ValueError, match="read-only"):
        data.train_images[0] = 0


def test_an_unknown_split_is_an_error(blobs):
    with pytest.raises(ValueError, match="train, validation and test"):
        dataset.load("blobs").split("tset")


@pytest.mark.parametrize("name", dataset.ARRAYS)
def test_one_changed_bit_is_found_and_named(blobs, name):
    file = blobs / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"data/blobs/{name}\.npy is not what dataset\.json says"):
        dataset.load("blobs")


def test_what_was_just_checked_is_not_checked_again(blobs, monkeypatch):
    monkeypatch.setattr(plain_arrays, "file_sha256", lambda file: pytest.fail("read all of a file"))
    assert dataset.load("blobs", check=False).card["name"] == "blobs"


@pytest.mark.parametrize("name", ["train_images.npy", "dataset.json"])
def test_a_missing_file_is_named(blobs, name):
    (blobs / name).unlink()
    with pytest.raises(InputError, match=f"data/blobs/{name}"):
        dataset.load("blobs")


def test_a_damaged_card_is_named(blobs):
    for content in ("", "[]", "{}", '{"files": {}}'):
        (blobs / "dataset.json").write_text(content)
        with pytest.raises(
            InputError, match=r"dataset\.json is damaged .*: run `rm -rf data/blobs` and then `dvc repro"
        ):
            dataset.load("blobs")


def test_a_card_says_what_was_written_or_is_refused(blobs):
    """Mean and class names too, which no file's digest is about."""
    content = (blobs / "dataset.json").read_text()
    (blobs / "dataset.json").write_text(content.replace('"mean": [\n    0.', '"mean": [\n    1.'))
    with pytest.raises(InputError, match=r"data/blobs/dataset\.json is not what was written to it"):
        dataset.load("blobs")
    card = json.loads(content)
    del card["sha256"]  # of a time before there were digests
    (blobs / "dataset.json").write_text(json.dumps(card))
    assert dataset.load("blobs").card == card


def test_a_dataset_not_yet_downloaded_says_how_to_get_it(project):
    with pytest.raises(InputError, match="data/digits does not exist: run dvc repro download"):
        dataset.load("digits")
