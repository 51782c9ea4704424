"""Datasets of numbers and of sequences, through all stages and the commands after them."""

import copy
import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import ROOT, TINY, at_home, edit, made_once, make_project, put, refused
from sklearn import metrics as sklearn_metrics
from sklearn.datasets import load_diabetes

from flows.commands import champion, predict, promote
from flows.data import added, dataset, digit_strings
from flows.drift import judgement
from flows.ensembles import record, registering
from flows.models import trained_members
from flows.models.export import export
from flows.models.served_ensemble import ServedEnsemble
from flows.params.params_file import parse, read
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.reporting import results
from flows.studies import specification
from flows.training import resolving
from lightning_modules import tasks
from lightning_modules.ensembles import Combiner
from lightning_modules.tasks import sequence

ADAM = {"name": "adam", "lr": 0.01}
MEMBERS = {
    "diabetes": {
        "linear": {"network": {"name": "mlp", "hidden": None}, "optimizer": ADAM, "replicas": 2},
        "small": {"network": {"name": "mlp", "hidden": [16]}, "optimizer": ADAM, "loss": "mae"},
    },
    "digit_strings": {"reader": {"network": {"name": "rnn", "hidden": 8}, "optimizer": ADAM, "replicas": 2}},
}
EPOCHS = {"diabetes": 20, "digit_strings": 1}


def of_task(name: str, content: dict) -> None:
    content["dataset"] = name
    content["data"][name]["epochs"] = EPOCHS[name]
    content["training"] |= TINY["training"]
    content["members"] = copy.deepcopy(MEMBERS[name])


def finish(place: Path, name: str) -> None:
    """Makes a project and runs all stages of a dataset in it."""
    from flows import download, ensemble, evaluate, train

    folder = place / "a project"
    params = edit(folder, lambda content: of_task(name, content))
    os.chdir(folder)
    download.download(params)
    for member in params.members:
        train.train(params, member)
    evaluate.evaluate(params)
    ensemble.ensemble(params)


@pytest.fixture(scope="module")
def diabetes_once(tmp_path_factory, empty_store):
    def make(place: Path) -> None:
        shutil.copy(empty_store, make_project(place / "a project"))
        finish(place, "diabetes")

    return at_home(made_once(tmp_path_factory, "diabetes", make) / "a project")


@pytest.fixture
def diabetes(diabetes_once, monkeypatch):
    monkeypatch.chdir(diabetes_once)
    return diabetes_once


@pytest.fixture(scope="module")
def strings_once(tmp_path_factory):
    def make(place: Path) -> None:
        make_project(place / "a project")
        with pytest.MonkeyPatch.context() as patch:
            # To export a network of forty steps takes many seconds, and without a store nothing is exported here.
            patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            patch.setattr(digit_strings, "IN_A_POOL", 20)
            patch.setattr(digit_strings, "TESTS", 60)
            finish(place, "digit_strings")

    return made_once(tmp_path_factory, "digit_strings", make) / "a project"


@pytest.fixture
def strings(strings_once, monkeypatch):
    monkeypatch.chdir(strings_once)
    return strings_once


@pytest.fixture
def content() -> dict:
    return yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))


# --- What is refused before anything is trained ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "key", "value", "words"),
    [
        ("diabetes", "members.mlp.loss", "cross_entropy", "mlp: loss cross_entropy does not fit task regression: it "
         "takes mse or mae"),
        ("diabetes", "members.mlp.label_smoothing", 0.1, "task regression has no such target: set it to 0"),
        ("diabetes", "training.monitor", "accuracy", "training.monitor is accuracy, but diabetes is for regression"),
        ("diabetes", "ensemble.select_by", "accuracy", "ensemble.select_by is accuracy, but diabetes"),
        ("diabetes", "ensemble.methods", ["hard_vote"], "ensemble.methods has hard_vote, but for regression there are "
         "soft_vote, weighted_vote"),
        ("diabetes", "data.diabetes.task", "classification", "diabetes is for regression: set it to that"),
        ("digits", "data.digits.task", "regression", "data.digits.task is regression, but digits is for class"),
        ("digits", "members.mlp.loss", "ctc", "loss ctc does not fit task classification: it takes cross_entropy"),
        ("digit_strings", "members", {"lstm": {"network": "lstm", "optimizer": ADAM, "test_time_views": "mirror"}},
         "lstm: test_time_views mirror mirrors images, and a mirrored sequence runs backwards"),
        ("digit_strings", "members", {"lstm": {"network": "lstm", "optimizer": ADAM, "augment": "flip"}},
         "member lstm has augment flip, which mirrors images"),
        ("digit_strings", "seed", 0, "mlp: network mlp does not fit task sequence: it takes rnn or lstm or gru"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_refused_with_what_does(content, dataset, key, value, words):
    with pytest.raises(InputError) as error:
        parse(put(content | {"dataset": dataset}, key, value))
    assert words in str(error.value)


def test_members_without_a_loss_have_that_of_the_task(content):
    for name, loss in (("digits", "cross_entropy"), ("diabetes", "mse")):
        assert {member.recipe["loss"] for member in parse(content | {"dataset": name}).members.values()} == {loss}
    own = put(content | {"dataset": "diabetes"}, "members.mlp.loss", "mae")
    assert parse(own).member("mlp").recipe["loss"] == "mae"


def test_a_study_of_numbers_is_refused():
    given = {"about": "?", "dataset": "diabetes", "member": {}, "vary": {"dropout": [0, 0.1]}, "baseline": "0"}
    with pytest.raises(ValueError, match="studies compare classifiers by their accuracy, and the task of diabetes is"):
        specification.Study.model_validate(given)


# --- Numbers ---------------------------------------------------------------------------------------------------------


def test_the_data_is_that_of_scikit_learn(diabetes):
    data, (known, target) = dataset.load("diabetes"), load_diabetes(return_X_y=True, scaled=False)
    rows = np.concatenate([data.train_images, data.test_images]).reshape(442, 10)
    order, theirs = np.lexsort(rows.T), np.lexsort(known.astype(np.float32).T)
    assert (rows[order] == known[theirs].astype(np.float32)).all()
    assert (np.concatenate([data.train_labels, data.test_labels])[order] == target[theirs]).all()
    images, labels = data.split("train")
    assert data.card["target"] == {
        "name": "progression", "mean": pytest.approx(labels.mean(), 1e-5), "std": pytest.approx(labels.std(), 1e-5),
    }  # fmt: skip
    assert data.card["mean"] == pytest.approx(images.reshape(-1, 10).mean(0, dtype=float))
    assert data.card["std"] == pytest.approx(images.reshape(-1, 10).std(0, dtype=float))
    assert data.card["features"][2] == "bmi"


def test_the_digest_of_the_test_data_sees_a_fraction_of_a_label():
    images, labels = np.zeros((2, 1, 1, 1), np.float32), np.array([1.25, 2], np.float32)
    assert dataset.digest_of_test_data(images, labels) != dataset.digest_of_test_data(images, labels.round())


def test_the_metrics_are_those_of_scikit_learn_with_their_intervals(diabetes):
    labels = {split: dataset.load("diabetes").split(split)[1] for split in paths.SPLITS}
    each = file_io.read_json(paths.replica_scores_file("diabetes"))
    for member in MEMBERS["diabetes"]:
        summary = file_io.read_json(paths.member_metrics_file("diabetes", member))
        for split, truth in labels.items():
            predicted = np.load(paths.predictions_file("diabetes", member, split))
            for numbers, own in zip(each[member], predicted[..., 0]):
                assert numbers[split]["mse"] == pytest.approx(sklearn_metrics.mean_squared_error(truth, own))
                assert numbers[split]["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(truth, own))
                assert numbers[split]["r2"] == pytest.approx(sklearn_metrics.r2_score(truth, own))
        for score in ("mse", "mae", "r2"):
            assert summary["test"][f"{score}_low"] < summary["test"][score] < summary["test"][f"{score}_high"]
    best = file_io.read_json(paths.ensemble_metrics_file("diabetes"))
    assert best["test"]["r2"] > 0.2  # something was learned
    assert best["method"] in ("soft_vote", "weighted_vote")


def test_results_have_the_columns_of_numbers(diabetes):
    rows = results.rows(read())
    assert [row[0].removesuffix(" *") for row in rows] == ["linear", "small", "soft_vote", "weighted_vote"]
    assert {len(row) for row in rows} == {10}
    said = CliRunner().invoke(champion.command, catch_exceptions=False).stdout
    assert "version 1 is champion" in said
    assert "McNemar" not in said


def test_what_is_served_predicts_what_was_evaluated(diabetes, tmp_path):
    images, _ = dataset.load("diabetes").split("test")
    features = dataset.read_card("diabetes")["features"]
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", *reversed(features)])  # in any order, beside others
        writer.writerows(["x", *reversed(row)] for row in images.reshape(-1, 10).tolist())
    with (diabetes / "plots" / "diabetes" / "ensemble" / "predicted.csv").open(newline="") as stream:
        expected = [float(row["predicted"]) for row in csv.DictReader(stream)]
    found = json.loads(CliRunner().invoke(predict.command, [str(file), "--json"], catch_exceptions=False).stdout)
    assert [one["prediction"] for one in found] == pytest.approx(expected, rel=1e-4)
    assert found[1] | {"prediction": 0} == {
        "file": str(file), "row": 2, "target": "progression", "prediction": 0, "model": "diabetes version 1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age,bmi\n1,2\n", "has no column sex, bp, s1"),
        ("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n1,2,3,4,5,6,7,8,9\n", "has '' as s6 in line 2"),
        ("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n1,2,3,4,5,6,7,8,9,nan\n", "has 'nan' as s6 in line 2"),
        ("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n", "has no rows"),
        ("", "has no column age"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_in_one_line(diabetes, tmp_path, capfd, text, said):
    (tmp_path / "rows.csv").write_text(text)
    assert said in refused(capfd, predict.command, str(tmp_path / "rows.csv"))


def test_an_image_is_no_row(diabetes, tmp_path, capfd):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert "the champion of diabetes predicts from measurements" in refused(
        capfd, predict.command, str(tmp_path / "a.png")
    )


def test_what_compares_classifiers_says_so(diabetes, tmp_path, capfd):
    assert "compares classifiers alone, and the task of diabetes is regression" in refused(capfd, promote.command)
    with pytest.raises(InputError, match="classifiers alone, and the task of diabetes is regression"):
        judgement.drift(tmp_path, "diabetes", read().drift, 0)
    added.make_folders("diabetes")
    assert not paths.incoming_folder().exists()


def test_data_of_another_task_than_params_says_is_refused(diabetes):
    card = dataset.read_card("diabetes") | {"task": "classification"}
    with pytest.raises(InputError, match=r"data\.diabetes\.task is regression, but data/diabetes was made for classif"):
        resolving.resolve(read(), "linear", card, divided=False)


def test_measurements_are_no_probabilities(diabetes):
    params = edit(Path.cwd(), lambda content: content["members"]["small"].update(initializer="rbm"))
    try:
        with pytest.raises(
            InputError, match="initializer rbm takes pixels for probabilities, and diabetes has measure"
        ):
            resolving.resolve(params, "small", dataset.read_card("diabetes"), divided=False)
    finally:
        edit(Path.cwd(), lambda content: content["members"]["small"].pop("initializer"))


# --- Sequences -------------------------------------------------------------------------------------------------------


def test_strings_of_different_splits_have_no_digit_in_common(strings):
    data = dataset.load("digit_strings")
    seen = {}
    for split in ("train", "validation", "test"):
        images, labels = data.split(split)
        assert images.shape[1:] == (8, 40, 1)
        lengths = (labels >= 0).sum(1)
        assert set(lengths.tolist()) == {3, 4, 5}
        assert all((row[:length] >= 0).all() and (row[length:] == -1).all() for row, length in zip(labels, lengths))
        digits = images.reshape(-1, 8, 5, 8).transpose(0, 2, 1, 3)
        assert (digits[labels < 0] == 0).all()
        seen[split] = {digit.tobytes() for digit in digits[labels >= 0]}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_sequences_are_scored_and_combined(strings):
    each = file_io.read_json(paths.replica_scores_file("digit_strings"))["reader"]
    assert {*each[0]["test"]} == {"accuracy", "cer", "nll"}
    best = file_io.read_json(paths.ensemble_metrics_file("digit_strings"))
    assert best["method"] == "soft_vote"
    assert best["test"]["cer_low"] <= best["test"]["cer"] <= best["test"]["cer_high"]
    card = trained_members.card("digit_strings", "reader")
    assert (card["task"], card["recipe"]["loss"]) == ("sequence", "ctc")


@pytest.mark.long
def test_what_is_served_reads_what_was_evaluated(strings, tmp_path):
    made = record.read("digit_strings")
    vote = Combiner(made.method, None, tasks.of({"class_names": made.class_names, **made.about}).ENSEMBLES)
    export(registering.networks(made, "reader"), vote, made.shape, made.class_names, tmp_path, made.about)
    images, _ = dataset.load("digit_strings").split("test")
    found = list(predict.answered(ServedEnsemble(tmp_path), images, {"name": "digit_strings", "version": "1"}))
    steps = torch.from_numpy(np.load(paths.predictions_file("digit_strings", "reader", "test")))
    expected = sequence.decoded(sequence.soft_vote(steps))
    assert [one["label"] for one in found] == [
        "".join(str(int(label)) for label in row if label >= 0) for row in expected
    ]
    assert all(0 <= one["probability"] <= 1 for one in found)
