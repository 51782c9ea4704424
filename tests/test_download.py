"""The same sources make the same arrays, every image lands in exactly one split, and bad sources are named."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from flows.data import dataset, fetch, published, source_images
from flows.data.plain_arrays import mean_and_std
from flows.download import download, summary
from flows.params import params_file
from flows.project.errors import InputError


def settings(name, seed=0, **feed):
    given = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    given["data"][name] |= feed
    return params_file.parse(given | {"dataset": name, "seed": seed})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["digits", "blobs"])
def test_the_same_params_make_the_same_bytes(project, name):
    card = download(settings(name))
    first = content(project / "data" / name)
    assert download(settings(name)) == card
    assert content(project / "data" / name) == first
    assert os.listdir(project / "data") == [name]
    assert dataset.read_card(name) == card


def test_digits_are_what_scikit_learn_bundles(project):
    card = download(settings("digits"))
    assert card["shape"] == [8, 8, 1]
    assert card["counts"] == {"train": 1222, "validation": 216, "test": 359}
    assert summary(card) == "digits: 1,222 training, 216 validation, 359 test images of 8×8×1, 10 classes"
    digits = dataset.load("digits")
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    assert (digits.train_images.dtype, digits.train_labels.dtype) == (np.uint8, np.int64)
    levels, labels = load_digits(return_X_y=True)
    published = {(np.rint(image * 255 / 16).astype(np.uint8).tobytes(), label) for image, label in zip(levels, labels)}
    for images, own_labels in (digits.split(name) for name in ("train", "validation", "test")):
        assert {(image.tobytes(), label) for image, label in zip(images, own_labels)} <= published


def test_the_seed_moves_validation_and_never_the_test_images(project):
    cards = [download(settings("blobs", seed=seed)) for seed in (0, 1)]
    assert cards[0]["test_sha256"] == cards[1]["test_sha256"]
    moved = {name for name in cards[0]["files"] if cards[0]["files"][name] != cards[1]["files"][name]}
    assert moved == {"validation_indices.npy"}
    assert download(settings("blobs", test=0.3))["test_sha256"] != cards[0]["test_sha256"]


def test_nothing_in_the_card_depends_on_where_or_when(project):
    card = download(settings("digits"))
    assert str(project) not in json.dumps(card)
    assert all(set(entry) == {"file", "from", "bytes", "sha256"} for entry in card["provenance"])


def test_images_that_two_splits_share_are_counted_in_every_dataset(project):
    assert set(download(settings("digits"))["duplicates"].values()) == {0}
    card = download(settings("blobs"))  # of two pixels, of which some have the same values
    images = np.load(project / "data/blobs/train_images.npy").reshape(-1, 2).tolist()
    tests = np.load(project / "data/blobs/test_images.npy").reshape(-1, 2).tolist()
    chosen = set(np.load(project / "data/blobs/validation_indices.npy").tolist())
    validation = [image for number, image in enumerate(images) if number in chosen]
    train = [image for number, image in enumerate(images) if number not in chosen]
    assert card["duplicates"] == {
        "validation_in_train": sum(image in train for image in validation),
        "test_in_train": sum(image in train for image in tests),
        "test_in_validation": sum(image in validation for image in tests),
    }
    assert card["duplicates"]["test_in_train"] > 0
    assert "test images are training images too, pixel for pixel" in summary(card)


def test_mean_and_std_are_those_of_the_training_images_alone(project):
    card = download(settings("digits"))
    images, _ = dataset.load("digits").split("train")
    assert card["mean"] == pytest.approx([(images / 255).mean()])
    assert card["std"] == pytest.approx([(images / 255).std()])


def test_mean_and_std_are_taken_per_channel():
    images = np.random.default_rng(0).integers(0, 256, (5000, 2, 3, 3), np.uint8)
    images[..., 1] = 51
    mean, std = mean_and_std(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)))
    assert std == pytest.approx((images / 255).std((0, 1, 2)))
    assert std[1] == 0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.33, 0.5, 0.99])
def test_a_fraction_is_set_aside_of_every_class(fraction):
    labels = np.random.default_rng(0).choice(4, 1000, p=[0.9, 0.05, 0.03, 0.02])
    chosen = source_images.stratified_sample(labels, fraction, 0, list("abcd"), "a split")
    assert (chosen == np.unique(chosen)).all()
    whole, taken = np.bincount(labels), np.bincount(labels[chosen], minlength=4)
    assert ((taken >= 1) & (taken < whole)).all()
    assert (np.abs(taken - whole * fraction) <= 1).all()
    assert (chosen == source_images.stratified_sample(labels, fraction, 0, list("abcd"), "a split")).all()
    assert (chosen != source_images.stratified_sample(labels, fraction, 1, list("abcd"), "a split")).any()


def test_a_class_too_small_to_be_split_is_named():
    with pytest.raises(InputError, match='class "rare" has 1 of the images that the validation split'):
        source_images.stratified_sample(np.array([0, 0, 0, 1]), 0.5, 0, ["common", "rare"], "the validation split")


# --- Published archives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_every_published_file_is_pinned(project, name):
    source = source_images.describe(name)
    for entry in source["archives"] + source.get("members", []):
        archive = fetch.Archive(**entry)
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.bytes > 0
        assert archive.url is None or archive.url.startswith("https://")
    assert len(source["class_names"]) == 10


def idx(array):
    """The file format of MNIST, compressed to the same bytes each time."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


@pytest.fixture
def tiny_mnist(project, monkeypatch):
    """A mirror with forty images, and source.yaml to go with it."""
    generator = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.uint8) % 10
    images = generator.integers(0, 256, (40, 28, 28), np.uint8)
    source = source_images.describe("mnist")
    for entry, array in zip(source["archives"], [images, labels, images[:20], labels[:20]]):
        file = project / "mirror" / entry["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(idx(array))
        entry |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    (project / "sources" / "mnist" / "source.yaml").write_text(yaml.safe_dump(source), encoding="utf-8")
    monkeypatch.setenv("TRAINYARD_MIRROR", "mirror")
    return images, labels


def test_mnist_is_decoded_to_what_was_written(project, tiny_mnist):
    card = download(settings("mnist", validation=0.25))
    assert card["counts"] == {"train": 30, "validation": 10, "test": 20}
    data = dataset.load("mnist")
    assert (data.train_images == tiny_mnist[0][..., None]).all()
    assert (data.train_labels == tiny_mnist[1]).all()
    assert card["provenance"][0]["from"].startswith("https://")
    assert not list((project / ".trainyard").iterdir())


def test_a_swapped_archive_leaves_the_old_data_alone(project, tiny_mnist):
    card = download(settings("mnist", validation=0.25))
    files = [project / "mirror" / entry["path"] for entry in source_images.describe("mnist")["archives"]]
    shutil.copy(files[2], files[0])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.*expected SHA-256 .*, found "):
        download(settings("mnist", validation=0.25))
    assert dataset.load("mnist").card == card


def packed(*members):
    """A .tar.gz of (name, content) pairs, where a content of None makes a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data or b"")
            if data is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry, io.BytesIO(data or b""))
    return stream.getvalue()


PART = fetch.Archive("batches/one", 3, hashlib.sha256(b"one").hexdigest())


def test_only_expected_members_are_taken_out_of_an_archive():
    archive = packed(("../../evil", b"evil"), ("batches/one", b"one"), ("batches/two", b"two"))
    assert list(published.members(io.BytesIO(archive), [PART])) == [(PART, b"one")]


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (packed(("batches/two", b"two")), "lacks batches/one"),
        (packed(("batches/one", b"uno")), "SHA-256"),
        (packed(("batches/one", b"one and more")), "no file of 3 bytes"),
        (packed(("batches/one", None)), "no file of 3 bytes"),
        (packed(("batches/one", b"one"))[:40], "cannot be unpacked"),
        (b"no archive", "cannot be unpacked"),
    ],
    ids=["missing", "swapped", "too long", "a link", "truncated", "no archive"],
)
def test_an_archive_with_other_members_is_refused(archive, said):
    with pytest.raises(InputError, match=said):
        list(published.members(io.BytesIO(archive), [PART]))


def test_cifar10_is_taken_out_of_the_archive_where_it_is_not_unpacked(project, monkeypatch):
    part = {"path": PART.path, "bytes": PART.bytes, "sha256": PART.sha256}
    archive = packed((PART.path, b"one"))
    whole = fetch.Archive("tiny.tar.gz", len(archive), hashlib.sha256(archive).hexdigest(), "https://localhost:1/")
    (project / "mirror").mkdir()
    (project / "mirror" / "tiny.tar.gz").write_bytes(archive)
    monkeypatch.setenv("TRAINYARD_MIRROR", "mirror")
    assert list(published.cifar10_files(whole, [fetch.Archive(**part)])) == [(PART, b"one")]


def test_cifar10_is_decoded_as_torchvision_decodes_its_whole_splits(tmp_path, monkeypatch):
    def lay_out(name: str, content: dict) -> str:
        file = tmp_path / CIFAR10.base_folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(pickle.dumps(content))
        return hashlib.md5(file.read_bytes()).hexdigest()

    generator, count = np.random.default_rng(0), 0
    for split in ("train_list", "test_list"):
        files = []
        for name, _ in getattr(CIFAR10, split):
            size = 3 + len(files)
            batch = {"data": generator.integers(0, 256, (size, 3072), np.uint8)}
            files.append([name, lay_out(name, batch | {"labels": generator.integers(0, 10, size).tolist()})])
            count += size
        monkeypatch.setattr(CIFAR10, split, files)
    meta = lay_out(CIFAR10.meta["filename"], {"label_names": list("abcdefghij")})
    monkeypatch.setitem(CIFAR10.meta, "md5", meta)

    images, labels = published.decode_cifar10(str(tmp_path))
    (train_images, train_labels), (test_images, test_labels) = published.decode("CIFAR10", str(tmp_path))
    assert (images[:count] == np.concatenate([train_images, test_images])).all()
    assert (labels[:count] == np.concatenate([train_labels, test_labels])).all()


@pytest.mark.parametrize(("name", "mean"), [("mnist", [0.1307]), ("cifar10", [0.4914, 0.4822, 0.4465])])
def test_the_real_archives_decode_to_the_known_counts_and_means(real_mirror, project, monkeypatch, name, mean):
    monkeypatch.setenv("TRAINYARD_MIRROR", str(real_mirror))
    card = download(settings(name))
    assert card["counts"]["test"] == 10_000
    assert card["mean"] == pytest.approx(mean, abs=1e-3)
    assert np.bincount(dataset.load(name).test_labels).min() > 800


# --- The user's own images -------------------------------------------------------------------------------------------


def save(path, seed, size=(6, 5), mode="RGB"):
    """A random image of width × height `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def own(project):
    """Twelve images in two classes, in sources/folder."""
    folder = project / "sources" / "folder"
    for index in range(6):
        for number, name in enumerate(("cat", "dog")):
            save(folder / name / f"{index}.png", seed=10 * number + index)
    (folder / "README.md").write_text("not an image")
    (folder / ".hidden").mkdir()
    return folder


def test_own_images_are_read_one_subfolder_a_class(own):
    card = download(settings("folder", test=0.34, validation=0.25))
    assert card["class_names"] == ["cat", "dog"]
    assert card["shape"] == [5, 6, 3]
    assert card["counts"] == {"train": 6, "validation": 2, "test": 4}
    everything = dataset.load("folder")
    images = {image.tobytes() for image in [*everything.train_images, *everything.test_images]}
    expected = {np.asarray(Image.open(path)).tobytes() for path in own.rglob("*.png")}
    assert images == expected


def test_own_images_keep_one_channel_where_all_are_grey(own):
    for path in list(own.rglob("*.png")):
        Image.open(path).convert("L").save(path)
    assert download(settings("folder"))["shape"] == [5, 6, 1]
    save(own / "cat" / "colour.png", seed=99)
    assert download(settings("folder"))["shape"] == [5, 6, 3]


def test_a_symlinked_class_is_read_like_any_other(own, tmp_path):
    shutil.move(own / "cat", tmp_path / "elsewhere")
    (own / "cat").symlink_to(tmp_path / "elsewhere")
    assert download(settings("folder"))["class_names"] == ["cat", "dog"]


def test_own_splits_stay_as_they_are_and_shared_images_are_counted(own):
    for split in ("train", "test"):
        shutil.copytree(own / "cat", own / split / "cat")
        shutil.copytree(own / "dog", own / split / "dog")
    save(own / "test" / "dog" / "new.png", seed=50)
    shutil.rmtree(own / "cat")
    shutil.rmtree(own / "dog")
    with pytest.raises(InputError, match=r"set data\.folder\.test to official"):
        download(settings("folder"))
    card = download(settings("folder", test="official"))
    assert card["counts"] == {"train": 10, "validation": 2, "test": 13}
    assert card["duplicates"] == {"validation_in_train": 0, "test_in_train": 10, "test_in_validation": 2}
    assert "warning: 10 of the 13 test images are training images too, pixel for pixel" in summary(card)
    shutil.rmtree(own / "test" / "cat")
    save(own / "test" / "cow" / "0.png", seed=60)
    with pytest.raises(InputError, match="differ in cat, cow"):
        download(settings("folder", test="official"))


def damage(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda own: shutil.rmtree(own / "dog"), 'only one class, "cat"'),
        (lambda own: (own / "dog").rename(own / "label"), 'a class named "label", a name that predictions need'),
        (lambda own: [shutil.rmtree(own / name) for name in ("cat", "dog")], "no class folders"),
        (lambda own: (own / "cow").mkdir(), "sources/folder/cow has no image"),
        (lambda own: damage(own / "dog" / "3.png"), "sources/folder/dog/3.png is no readable image"),
        (lambda own: (own / "dog" / "3.png").write_text("text"), "sources/folder/dog/3.png is no readable image"),
        (lambda own: save(own / "dog" / "3.png", 0, (7, 5)), "cat/0.png is 6×5 and sources/folder/dog/3.png is 7×5"),
        (lambda own: save(own / "dog" / "3.png", 0, mode="I;16"), "dog/3.png has more than 8 bits"),
        (lambda own: [(own / "dog" / f"{n}.png").unlink() for n in range(5)], 'class "dog" has 1 of the images'),
        (lambda own: np.savez(own / "images.npz", images=np.zeros((1, 2, 2))), "both images.npz and subfolders"),
        (shutil.rmtree, "sources/folder does not exist"),
    ],
    ids=[
        "one class",
        "label",
        "none",
        "empty class",
        "truncated",
        "text",
        "sizes",
        "16 bits",
        "one image",
        "both",
        "no folder",
    ],
)
def test_own_images_that_cannot_work_are_named(own, spoil, said):
    spoil(own)
    with pytest.raises(InputError, match=said):
        download(settings("folder"))
    assert not os.path.exists("data")


def test_official_needs_both_splits(own):
    with pytest.raises(InputError, match="sources/folder/train does not exist"):
        download(settings("folder", test="official"))


IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 5), np.uint8)
LABELS = np.arange(30) % 3


def pack(project, **arrays):
    given = {"images": IMAGES, "labels": LABELS} | arrays
    given = {name: array for name, array in given.items() if array is not None}
    np.savez_compressed(project / "sources" / "folder" / "images.npz", **given)


def test_an_npz_of_images_is_read(project):
    pack(project, class_names=np.array(["a", "b", "c"]))
    card = download(settings("folder"))
    assert (card["shape"], card["class_names"]) == ([4, 5, 1], ["a", "b", "c"])
    assert card["counts"] == {"train": 20, "validation": 4, "test": 6}
    pack(project, images=np.stack([IMAGES] * 3, -1), test_images=np.stack([IMAGES] * 3, -1)[:6], test_labels=LABELS[:6])
    card = download(settings("folder", test="official"))
    assert (card["shape"], card["class_names"]) == ([4, 5, 3], ["0", "1", "2"])
    assert card["counts"]["test"] == 6


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"labels": None}, "no array labels"),
        ({"lables": LABELS}, 'Did you mean "labels"'),
        ({"images": IMAGES / 255}, "has to be uint8"),
        ({"images": IMAGES.astype(np.uint16)}, "has to be uint8"),
        ({"images": IMAGES.reshape(30, 20)}, "N×H×W"),
        ({"images": np.zeros((30, 3, 8, 8), np.uint8)}, "channels last"),
        ({"images": IMAGES.astype(object)}, "no .npz file of plain arrays"),
        ({"labels": LABELS[:-1]}, "30 integers"),
        ({"labels": LABELS / 1.0}, "30 integers"),
        ({"labels": LABELS - 1}, "count classes from 0"),
        ({"labels": LABELS * 10**12}, "count classes from 0"),
        ({"labels": LABELS * 2}, 'is of class "1"'),
        ({"labels": LABELS * 0}, "only one class"),
        ({"class_names": np.array(["a", "b"])}, "holds 2, but there are 2 classes"),
        ({"class_names": np.array(["a", "b", "b"])}, "different strings"),
        ({"test_images": IMAGES, "test_labels": LABELS}, "set data.folder.test to official"),
    ],
)
def test_an_npz_that_cannot_work_is_refused(project, arrays, said):
    pack(project, **arrays)
    with pytest.raises(InputError, match=said):
        download(settings("folder"))


def test_a_file_that_only_claims_to_be_npz_is_refused(project):
    file = project / "sources" / "folder" / "images.npz"
    np.save(file.with_suffix(".npy"), IMAGES)
    for content in (b"", b"PK\x03\x04 and then nothing", file.with_suffix(".npy").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"no \.npz file"):
            download(settings("folder"))
