"""Drift: held-out images show none, changed ones do, and bad input is said."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import edit, refused
from PIL import Image

from flows.commands import drift
from flows.data import dataset
from flows.drift import embeddings, judgement, ranking
from flows.models import served_ensemble
from flows.models.served_ensemble import ServedEnsemble
from flows.orchestration import drift_event
from flows.params.params_file import read
from flows.params.sections import Drift
from flows.project import file_io, paths
from flows.project.errors import InputError


@pytest.fixture
def data(finished, tmp_path, monkeypatch):
    """The dataset of a finished project, and what is written lies elsewhere: the project is for all tests."""
    monkeypatch.setattr(paths, "drift_folder", lambda name: tmp_path / "drift")
    return dataset.load("digits")


@pytest.fixture
def incoming(tmp_path):
    """Writes images to a folder, as files in the subfolders of their classes; returns the folder."""

    def write(images: np.ndarray, labels: np.ndarray | None = None):
        folder = tmp_path / "incoming"
        for number, image in enumerate(images):
            file = folder / str(0 if labels is None else labels[number]) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(file)
        return folder

    return write


def some(data, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Held-out images and their labels."""
    images, labels = data.split("test")
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return images[chosen], labels[chosen]


def blurred(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return np.rint((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9).astype(np.uint8)


def noisy(images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 40, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def looked_at(folder, settings: Drift | None = None) -> dict:
    result = judgement.drift(folder, "digits", settings or Drift(), seed=0)
    assert result == file_io.read_json(paths.drift_folder("digits") / "drift.json")
    return result


def verdicts(result: dict) -> dict[str, str]:
    return {test["name"]: test["verdict"] for test in result["tests"]}


def test_held_out_images_show_no_drift(data, incoming):
    result = looked_at(incoming(*some(data, 100)))
    assert not result["drift"]
    assert result["drifted"] == result["refused"] == []
    assert (result["found"], result["incoming"]) == (100, 100)
    assert result["reference"] == len(data.validation_indices) + len(data.test_images)
    assert {"brightness", "contrast", "sharpness", "confidence", "probability of 3", "classifier score"} <= set(
        verdicts(result)
    )
    with Image.open(paths.drift_folder("digits") / "drift.png") as figure:
        assert min(figure.size) > 300
        assert len(figure.convert("RGB").getcolors(1_000_000)) > 10  # it is not blank


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda images: 255 - images, {"brightness", "classifier score"}),
        (blurred, {"contrast", "sharpness", "classifier score"}),
        (noisy, {"sharpness"}),
    ],
    ids=["inverted", "blurred", "noisy"],
)
def test_changed_images_are_found_by_what_was_changed(data, incoming, change, found):
    result = looked_at(incoming(change(some(data, 100)[0])))
    assert result["drift"]
    assert found <= set(result["drifted"])


def test_images_of_one_class_alone_are_found_by_the_predictions(data, incoming):
    images, labels = data.split("test")
    result = looked_at(incoming(images[labels == 4]))
    assert "probability of 4" in result["drifted"]
    assert result["predicted"]["incoming"][4] > 0.8
    assert sum(result["predicted"]["incoming"]) == pytest.approx(1)


def more_of(data, label: int, share: float, count: int = 1000) -> np.ndarray:
    """Test images, drawn again with replacement, of which so many more are of a class that it makes up the share."""
    images, labels = data.split("test")
    weights = np.where(labels == label, share / (labels == label).sum(), (1 - share) / (labels != label).sum())
    return images[np.random.default_rng(0).choice(len(images), count, p=weights)]


def test_a_class_that_became_more_frequent_by_less_than_ten_points_is_found(data, tmp_path, capsys):
    np.savez(tmp_path / "incoming.npz", images=more_of(data, 3, 0.18))
    result = looked_at(tmp_path / "incoming.npz")
    assert "class shares" in result["drifted"]
    [test] = [test for test in result["tests"] if test["view"] == "labels"]
    most = ranking.most_changed(result["class_shares"])
    assert most["class"] == "3"
    assert most["held_out"] == pytest.approx(0.1, abs=0.01)
    assert most["incoming"] == pytest.approx(0.18, abs=0.04)
    assert test["statistic"] == pytest.approx(most["incoming"] - most["held_out"])
    assert sum(one["incoming"] for one in result["class_shares"]) == pytest.approx(1)
    judgement.say(result)
    said = capsys.readouterr().out
    assert f"class 3 makes up {most['incoming']:.1%} of the incoming images" in said
    assert [line for line in said.splitlines() if "class shares" in line and line.endswith("drift")]
    # A limit of params.yaml decides what matters.
    loose = looked_at(tmp_path / "incoming.npz", Drift(class_share=0.5))
    assert verdicts(loose)["class shares"] == "small"
    assert "makes up" not in (judgement.say(loose), capsys.readouterr().out)[1]


def test_classes_as_frequent_as_they_were_are_no_drift(data, tmp_path):
    np.savez(tmp_path / "incoming.npz", images=more_of(data, 3, np.mean(data.labels("test") == 3)))
    assert verdicts(looked_at(tmp_path / "incoming.npz"))["class shares"] == "same"


def test_a_difference_too_small_to_matter_is_no_drift(data, incoming):
    folder = incoming(noisy(some(data, 100)[0]))
    strict = looked_at(folder)
    loose = looked_at(folder, Drift(effect=0.99))
    assert strict["drift"]
    assert not loose["drift"]
    assert "small" in verdicts(loose).values()
    assert [test["p"] for test in strict["tests"]] == [test["p"] for test in loose["tests"]]


def test_the_same_seed_says_the_same_and_no_more_images_are_looked_at_than_wanted(data, incoming):
    folder = incoming(*some(data, 60))
    first, again = (looked_at(folder, Drift(images=30)) for _ in range(2))
    assert first == again
    assert (first["found"], first["incoming"], first["reference"]) == (60, 30, 30)


def test_the_reference_are_images_that_no_network_was_trained_on(data):
    trained = {image.tobytes() for image in data.split("train")[0]}
    kept = {image.tobytes() for image in np.concatenate([data.split("validation")[0], data.split("test")[0]])}
    sample = [image.tobytes() for image in judgement.held_out(data, 300, seed=0)[0]]
    assert len(sample) == 300
    assert set(sample) <= kept
    assert not set(sample) & (trained - kept)


def test_the_command_says_what_differs_and_exits_with_3(data, incoming):
    folder = incoming(255 - some(data, 30)[0])
    (folder / "broken.png").write_text("no image")
    (folder / "large.png").write_bytes(b"")
    Image.new("L", (9, 8)).save(folder / "large.png")
    done = CliRunner().invoke(drift.command, [str(folder)], standalone_mode=False, catch_exceptions=False)
    assert done.return_value == 3
    assert "left out: broken.png is no readable image" in done.stderr
    assert "left out: large.png is 9×8, not 8×8" in done.stderr
    assert "30 of 32 incoming images" in done.stdout
    assert [line for line in done.stdout.splitlines() if "brightness" in line and line.rstrip().endswith("drift")]
    assert done.stdout.splitlines()[-1].startswith("drift in ")


def test_too_few_images_are_refused(data, incoming, capfd):
    folder = incoming(some(data, 19)[0])
    (folder / "broken.png").write_text("no image")
    said = refused(capfd, drift.command, str(folder))
    assert "has 19 images to be compared (1 more cannot be used); it takes 20 or more" in said


def test_bad_input_is_said_in_one_line(data, incoming, capfd, tmp_path):
    assert "does not exist" in refused(capfd, drift.command, str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    assert "has no image files" in refused(capfd, drift.command, str(tmp_path / "empty"))
    assert "data/mnist does not exist" in refused(capfd, drift.command, str(tmp_path), "--dataset", "mnist")


def test_without_a_champion_it_says_what_makes_one(finished_copy, incoming, capfd):
    folder = incoming(some(dataset.load("digits"), 30)[0])
    assert "there is no champion for digits" in refused(capfd, drift.command, str(folder))


def test_a_store_that_is_away_is_no_bad_input(data, incoming, capfd, no_store):
    assert f"MLflow at {no_store} cannot be used" in refused(
        capfd, drift.command, str(incoming(some(data, 30)[0])), code=1
    )


def test_a_champion_of_another_format_is_said(data, incoming, capfd, monkeypatch, tmp_path):
    """Whichever step it fails in, and no copy of it stays behind."""
    folder, copies = str(incoming(some(data, 30)[0])), []
    temporary = tmp_path / "temporary"  # of nobody else, who might make something there meanwhile
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def loaded(folder: Path) -> ServedEnsemble:
        copies.append(folder)
        raise KeyError("programs")

    def fails(champion: ServedEnsemble, images: np.ndarray) -> None:
        raise TypeError("forward() takes 1 positional argument but 2 were given")

    for module, name, how in ((embeddings, "predict_and_embed", fails), (served_ensemble, "ServedEnsemble", loaded)):
        monkeypatch.setattr(module, name, how)
        said = refused(capfd, drift.command, folder, code=1)
        assert "the champion, digits version 1, cannot be loaded: " in said
    [copy] = copies
    assert not copy.exists()
    assert copy.is_relative_to(temporary)
    assert list(temporary.iterdir()) == []
    assert not paths.drift_folder("digits").exists()


def test_a_champion_for_other_images_is_refused(data, incoming, monkeypatch):
    data.card["class_names"][0] = "nought"
    monkeypatch.setattr(dataset, "load", lambda name: data)
    with pytest.raises(InputError, match="was made for other images or classes"):
        looked_at(incoming(some(data, 30)[0]))


def test_params_yaml_sets_the_limits(project):
    assert edit(project, lambda content: content.pop("drift", None)).drift == Drift()
    edit(project, lambda content: content.update(drift={"alpha": 0.05, "effect": 0.2, "images": 50}))
    assert read().drift == Drift(alpha=0.05, effect=0.2, images=50)
    for wrong in ({"alpha": 0}, {"effect": 1}, {"class_share": -0.1}, {"images": 19}, {"aplha": 0.1}):
        with pytest.raises(InputError, match="drift"):
            edit(project, lambda content, wrong=wrong: content.update(drift=wrong))


@pytest.fixture
def told(monkeypatch):
    """What Prefect's server was told."""
    events = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(drift_event, "emit", lambda name, payload: events.append((name, payload)) or ["an automation"])
    return events


def test_retraining_is_asked_for_on_drift_alone(data, incoming, told):
    images, _ = some(data, 60)
    for given, code in ((images, 0), (255 - images, 3)):
        done = CliRunner().invoke(drift.command, [str(incoming(given)), "--retrain"], standalone_mode=False)
        assert done.return_value == code, done.output
        assert bool(told) == ("this answers: an automation" in done.stdout) == (code == 3)
    [(name, payload)] = told
    assert name == "digits"
    assert "brightness" in payload["drifted"]
    assert payload == json.loads(json.dumps(payload))


def test_without_a_server_to_tell_nothing_is_compared(data, incoming, capfd, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert "set PREFECT_API_URL" in refused(capfd, drift.command, str(incoming(some(data, 30)[0])), "--retrain")
    assert not paths.drift_folder("digits").exists()
