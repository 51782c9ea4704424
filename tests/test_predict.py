"""Classifying image files with the champion, and what is said of files that are none."""

import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import edit, refused
from PIL import Image

from flows.commands import predict
from flows.data import dataset
from flows.project.errors import InputError
from flows.untrusted import masking


@pytest.fixture
def digit(finished, tmp_path):
    """A PNG of a test image that is not hard to tell, and its label."""
    images, labels = dataset.load("digits").split("test")
    file = tmp_path / "digit.png"
    Image.fromarray(images[0, ..., 0]).save(file)
    return file, str(labels[0])


def test_digits_get_the_labels_that_the_ensemble_gives(finished, tmp_path):
    images, labels = dataset.load("digits").split("test")
    files = []
    for number, image in enumerate(images[:50, ..., 0]):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(files[-1])
    results = list(predict.predict("digits", files))
    assert np.mean([int(result["label"]) == label for result, label in zip(results, labels)]) > 0.8
    for file, result in zip(files, results):
        assert result["file"] == str(file)
        assert sum(result["probabilities"].values()) == pytest.approx(1)
        assert result["probability"] == result["probabilities"][result["label"]]
        assert result["probability"] == max(result["probabilities"].values())
        assert result["model"] == "digits version 1"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_the_mode_of_a_grey_image_is_irrelevant(digit, tmp_path, mode):
    file, _ = digit
    other = tmp_path / f"{mode}.png"
    Image.open(file).convert(mode).save(other)
    [grey, same] = predict.predict("digits", [file, other])
    assert same["label"] == grey["label"]
    assert same["probabilities"] == pytest.approx(grey["probabilities"], abs=0.02)


def test_another_size_is_scaled(digit, tmp_path):
    file, _ = digit
    other = tmp_path / "large.png"
    Image.open(file).resize((64, 48), Image.Resampling.NEAREST).save(other)
    [small, large] = predict.predict("digits", [file, other])
    assert large["label"] == small["label"]


def test_the_command_says_a_line_a_file_or_json(digit):
    file, _ = digit
    [expected] = predict.predict("digits", [file])
    said = CliRunner().invoke(predict.command, [str(file)], catch_exceptions=False).stdout
    assert said == f"{file}  {expected['label']}  {expected['probability']:.1%}\n"
    said = CliRunner().invoke(predict.command, [str(file), "--json"], catch_exceptions=False).stdout
    assert json.loads(said) == [expected]


def said(capfd, *arguments: str) -> tuple[int, str, str]:
    """The exit code of the command, and what it prints."""
    from flows.machine.console import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["predict", *arguments])
        with pytest.raises(SystemExit) as left:
            run(predict.command)
    return left.value.code, *capfd.readouterr()


def test_a_file_s_name_moves_no_cursor(digit, tmp_path, capfd):
    file, label = digit
    nasty = tmp_path / "\x1b[2Jdigit\n.png"
    shutil.copy(file, nasty)
    said = CliRunner().invoke(predict.command, [str(nasty)], catch_exceptions=False).stdout
    assert said.startswith(f"{tmp_path}/\\x1b[2Jdigit\\n.png  {label}  ")
    assert said.count("\n") == 1
    nasty.write_bytes(b"no image")
    assert "\\x1b[2Jdigit\\n.png is no readable image" in refused(capfd, predict.command, str(nasty))


def test_what_is_no_image_is_refused_in_one_line(digit, tmp_path, capfd):
    file, _ = digit
    (tmp_path / "text.png").write_text("a digit, believe me")
    (tmp_path / "cut.png").write_bytes(file.read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")  # that nobody ever writes to
    damaged = dict.fromkeys(("text.png", "cut.png", "empty.png"), "is no readable image")
    for name, reason in (damaged | {"pipe.png": "is a named pipe, and no plain file"}).items():
        assert f"{tmp_path / name} {reason}" in refused(capfd, predict.command, str(tmp_path / name))
    assert "missing.png does not exist" in refused(capfd, predict.command, str(tmp_path / "missing.png"))
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert "deep.png has more than 8 bits a channel" in refused(capfd, predict.command, str(tmp_path / "deep.png"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    assert "folder has no image files (.bmp, " in refused(capfd, predict.command, str(tmp_path / "folder"))


@pytest.fixture
def photos(digit, tmp_path):
    """A folder of three images, one of them damaged and one in a subfolder, of what hides and of what is none."""
    file, _ = digit
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/c.PNG", ".hidden.png"):
        (folder / name).write_bytes(file.read_bytes())
    (folder / "b.png").write_bytes(file.read_bytes()[:60])
    (folder / "notes.txt").write_text("no image")
    return folder


def test_of_a_folder_all_images_are_classified_past_a_damaged_one(digit, photos, capfd):
    _, label = digit
    code, out, err = said(capfd, str(photos))
    assert code == 1
    files = [str(photos / "a.png"), str(photos / "more" / "c.PNG")]
    assert [line.split()[:2] for line in out.splitlines()] == [[file, label] for file in files]
    damaged, count = err.splitlines()
    assert damaged.startswith(f"trainyard: {photos / 'b.png'} is no readable image")
    assert count == "trainyard: 1 of 3 could not be classified: see above"

    code, out, err = said(capfd, str(photos), str(photos / "nowhere"), "--json")
    assert code == 1
    entries = json.loads(out)
    assert [(entry["file"], entry["label"]) for entry in entries] == [
        (files[0], label), (str(photos / "b.png"), None), (files[1], label), (str(photos / "nowhere"), None),
    ]  # fmt: skip
    assert [entry["problem"] for entry in entries if entry["label"] is None] == [
        line.removeprefix("trainyard: ") for line in err.splitlines()[:2]
    ]

    (photos / "b.png").unlink()
    assert said(capfd, str(photos), str(photos / "a.png"))[0] == 0


def test_more_images_than_a_batch_are_the_same_one_by_one(photos, monkeypatch):
    files, _ = predict.files_of([photos])
    together = list(predict.predict("digits", files))
    monkeypatch.setattr(predict, "BATCH", 1)
    apart = list(predict.predict("digits", files))
    assert [entry["file"] for entry in apart] == [entry["file"] for entry in together] == [str(file) for file in files]
    assert [entry["label"] for entry in apart] == [entry["label"] for entry in together]


def test_a_damaged_file_does_not_hide_that_there_is_no_champion(store, project, photos, monkeypatch, capfd):
    monkeypatch.chdir(project)
    code, out, err = said(capfd, str(photos), "--dataset", "blobs")
    assert (code, out) == (2, "")
    assert "there is no champion for blobs" in err


@pytest.mark.parametrize(("size", "warned"), [((24, 24), False), ((25, 24), True), ((8, 1000), True), ((2, 2), False)])
def test_an_image_that_shrinks_to_less_than_a_third_is_warned_of(digit, tmp_path, capfd, size, warned):
    file, _ = digit
    other = tmp_path / "other.png"
    Image.open(file).resize(size).save(other)
    code, out, err = said(capfd, str(file), str(other))
    assert (code, len(out.splitlines())) == (0, 2)
    made = f"{other} was made 8×8 of {size[0]}×{size[1]}"
    assert (made in err) == warned == bool(err)
    Image.open(file).resize(size).save(tmp_path / "third.png")
    said_of_two = said(capfd, str(other), str(tmp_path / "third.png"))[2]
    assert (f"{made}, and 1 more like it" in said_of_two) == warned == bool(said_of_two)


def test_a_files_name_may_be_any_bytes(digit, tmp_path, capfd):
    file, _ = digit
    odd = os.fsencode(tmp_path) + b"/a\xff\n\x1b[31m.png"
    with open(odd, "wb") as target:
        target.write(file.read_bytes())
    for more in ((), ("--json",)):
        code, out, _ = said(capfd, os.fsdecode(odd), *more)
        assert code == 0
        assert "a\\xff\\n\\x1b[31m.png" in (json.loads(out)[0]["file"] if more else out)
        assert "\x1b" not in out


@pytest.fixture
def black(tmp_path) -> str:
    """An image file."""
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    return str(tmp_path / "black.png")


def test_without_a_champion_it_says_what_makes_one(store, project, black, capfd):
    assert "there is no champion for digits" in refused(capfd, predict.command, black)
    assert "there is no champion for blobs" in refused(capfd, predict.command, black, "--dataset", "blobs")
    store.unlink()
    assert "`make repro` trains and registers one" in refused(capfd, predict.command, black)
    assert not store.exists()


def test_a_store_that_does_not_answer_is_named(project, no_store, black, capfd):
    assert no_store in refused(capfd, predict.command, black, code=1)


@pytest.mark.parametrize("uri", ["sqlite:////dev/null/x.db", "foo://bar", "postgresql://nobody@127.0.0.1:9/x"])
def test_a_store_that_cannot_be_used_is_not_one_without_a_champion(project, monkeypatch, black, capfd, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert f"MLflow at {masking.address(uri)} cannot be used" in refused(capfd, predict.command, black, code=1)


def test_a_champion_whose_files_are_gone_is_said(finished_copy, no_store, monkeypatch):
    # Copied without its artifacts.
    from flows.ensemble import ensemble
    from flows.tracking import loading

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    ensemble(edit(finished_copy, lambda content: content["ensemble"].update(methods=["hard_vote"])))
    (finished_copy / "mlartifacts").rename(finished_copy / "elsewhere")
    with pytest.raises(InputError, match="the champion, digits version 1, cannot be loaded"):
        loading.load_champion("digits")
