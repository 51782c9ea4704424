"""The files that evaluate writes, against each other and against the networks."""

import csv
import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import edit
from sklearn import metrics as sklearn_metrics

from flows.data import dataset
from flows.evaluate import evaluate
from flows.models import trained_members
from flows.params.params_file import read
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.reporting import dvc_plots
from flows.statistics.replicates import accuracy_text, summarize
from lightning_modules import weights


def table(file: Path) -> list[dict]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_metrics_are_those_of_the_predictions(finished):
    labels = {split: dataset.load("digits").split(split)[1] for split in paths.SPLITS}
    each_replica = file_io.read_json(paths.replica_scores_file("digits"))
    for member, recipe in read().members.items():
        summary = file_io.read_json(paths.member_metrics_file("digits", member))
        assert summary["replicas"] == recipe.replicas == len(each_replica[member])
        for split in paths.SPLITS:
            predicted = np.load(paths.predictions_file("digits", member, split))
            assert predicted.shape == (recipe.replicas, len(labels[split]), 10)
            probabilities = np.exp(predicted.astype(np.float64))
            np.testing.assert_allclose(probabilities.sum(2), 1, rtol=1e-5)
            probabilities /= probabilities.sum(2, keepdims=True)
            for numbers, own in zip(each_replica[member], probabilities):
                scores = numbers[split]
                assert scores["accuracy"] == pytest.approx((own.argmax(1) == labels[split]).mean())
                assert scores["nll"] == pytest.approx(sklearn_metrics.log_loss(labels[split], own), rel=1e-5)
                assert scores["brier"] == pytest.approx(((own - np.eye(10)[labels[split]]) ** 2).sum(1).mean())
                assert 0 <= scores["ece"] <= 1
                found = sklearn_metrics.top_k_accuracy_score(labels[split], own, k=5)
                assert scores["top_5"] == pytest.approx(found)
            for score in ("accuracy", "nll", "brier", "ece", "top_5"):
                values = [numbers[split][score] for numbers in each_replica[member]]
                assert summary[split][score] == pytest.approx(np.mean(values))
                deviation = pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else None
                assert summary[split].get(f"{score}_std") == deviation


def test_the_predictions_are_those_of_the_networks_on_disk(finished):
    images, _ = dataset.load("digits").split("test")
    _, predictors = weights.load(paths.model_folder("digits", "small"))
    saved = np.load(paths.predictions_file("digits", "small", "test"))
    for predictor, own in zip(predictors, saved):
        torch.testing.assert_close(weights.predict(predictor, images), torch.from_numpy(own))


def test_the_number_of_training_is_measured_again(finished):
    for member in read().members:
        card = file_io.read_json(paths.model_folder("digits", member) / "member.json")
        measured = file_io.read_json(paths.replica_scores_file("digits"))[member]
        for replica, numbers in zip(card["replicas"], measured):
            assert numbers["validation"]["nll"] == pytest.approx(replica["validation_nll"], rel=1e-4)
            assert numbers["validation"]["accuracy"] == pytest.approx(replica["validation_accuracy"])


def test_the_plots_agree_with_the_predictions(finished):
    folder = paths.plots_folder("digits") / "members"
    labels = dataset.load("digits").split("test")[1]
    for member in read().members:
        first = np.load(paths.predictions_file("digits", member, "test"))[0].argmax(1)
        confusion = [row for row in table(folder / "confusion.csv") if row["network"] == member]
        assert [int(row["actual"]) for row in confusion] == labels.tolist()
        assert [int(row["predicted"]) for row in confusion] == first.tolist()
        expected = sklearn_metrics.precision_recall_fscore_support(labels, first, zero_division=0)
        rows = [row for row in table(folder / "classes.csv") if row["network"] == member]
        for name, values in zip(("precision", "recall", "f1"), expected):
            assert [float(row[name]) for row in rows] == pytest.approx(values.tolist(), abs=1e-6)
        reliability = [row for row in table(folder / "reliability.csv") if row["network"] == member]
        assert sum(int(row["count"]) for row in reliability) == len(labels)
    networks = {row["network"] for row in table(folder / "curves.csv")}
    assert networks == {"small-0", "small-1", "wide-0"}


def test_again_and_in_another_order_gives_the_same_numbers(finished_copy, no_store):
    before = {file: file.read_bytes() for file in (finished_copy / "metrics" / "digits").glob("members/*")}
    predictions = {file: file.read_bytes() for file in (finished_copy / "predictions").rglob("*.npy")}
    params = edit(finished_copy, lambda content: content.update(members=dict(reversed(content["members"].items()))))
    assert list(evaluate(params)) == ["wide", "small"]
    assert before
    assert all(file.read_bytes() == content for file, content in before.items())
    assert predictions
    assert all(file.read_bytes() == content for file, content in predictions.items())


def test_each_replica_has_its_classes_and_confusion_on_both_splits(finished):
    predictions = paths.replica_scores_file("digits").parent
    each_class = file_io.read_json(predictions / "classes.json")
    assert {member: len(replicas) for member, replicas in each_class.items()} == {"small": 2, "wide": 1}
    for member, replicas in each_class.items():
        for number, replica in enumerate(replicas):
            for split in paths.SPLITS:
                labels = dataset.load("digits").split(split)[1]
                choices = np.load(paths.predictions_file("digits", member, split))[number].argmax(1)
                assert replica[split]["confusion"] == sklearn_metrics.confusion_matrix(labels, choices).tolist()
                recall = sklearn_metrics.recall_score(labels, choices, average=None)
                found = [scores["recall"] for scores in replica[split]["classes"].values()]
                assert found == pytest.approx(recall, abs=1e-6)


def test_a_member_that_is_dropped_leaves_the_results(finished_copy, no_store):
    evaluate(edit(finished_copy, lambda content: content["members"].pop("wide")))
    # Stages depend on models/digits as a whole: what no clean checkout has must not be part of it.
    for folder in ("models/digits", "metrics/digits/members", "predictions/digits"):
        assert not list((finished_copy / folder).glob("wide*"))


def test_a_member_that_is_not_trained_is_bad_input_and_costs_nothing(finished_copy, no_store):
    shutil.rmtree(finished_copy / "models" / "digits" / "wide")
    before = sorted((finished_copy / "predictions").rglob("*"))
    with pytest.raises(InputError, match="models/digits/wide does not exist: run dvc repro train@wide"):
        evaluate(read())
    assert sorted((finished_copy / "predictions").rglob("*")) == before


def test_the_networks_of_all_members_are_never_in_memory_together(finished_copy, no_store, monkeypatch):
    def change(content: dict) -> None:
        content["members"] |= {"third": content["members"]["wide"], "fourth": content["members"]["wide"]}

    params = edit(finished_copy, change)
    for name in ("third", "fourth"):
        shutil.copytree(paths.model_folder("digits", "wide"), paths.model_folder("digits", name))
    loaded: dict[str, weakref.ref] = {}
    load = trained_members.load

    def watched(name: str, member: str) -> tuple[dict, list]:
        card, predictors = load(name, member)
        loaded[member] = weakref.ref(predictors[0])
        gc.collect()
        assert sum(own() is not None for own in loaded.values()) <= 2  # the last one goes when the next one is there
        return card, predictors

    monkeypatch.setattr(trained_members, "load", watched)
    evaluate(params)
    assert list(loaded) == list(params.members)


def test_rows_of_a_table_are_written_as_they_are_made(tmp_path):
    with dvc_plots.Tables(tmp_path / "new") as tables:
        tables.add("curves", ({"network": name, "epoch": epoch} for name in "ab" for epoch in range(2)))
        tables.add("curves", [{"network": "c", "epoch": 0}])
        tables.add("other", iter([{"x": 1}]))
    assert (tmp_path / "new" / "curves.csv").read_text() == "network,epoch\na,0\na,1\nb,0\nb,1\nc,0\n"
    assert (tmp_path / "new" / "other.csv").read_text() == "x\n1\n"


def test_a_single_replica_has_no_deviation():
    assert summarize([{"nll": 2.0}]) == {"nll": 2.0}  # one value deviates from nothing
    assert accuracy_text(summarize([{"accuracy": 0.5}])) == "50.00%"
    assert summarize([{"nll": 1.0}, {"nll": 3.0}]) == {"nll": 2.0, "nll_std": pytest.approx(2**0.5)}


@pytest.mark.parametrize("file", ["weights.safetensors", "member.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x80\x04cposix\nmkdir\n(X\x03\x00\x00\x00rantR.", b"\x08" + bytes(7) + b"{" * 8]
)
def test_a_damaged_member_is_one_sentence_and_what_to_run(finished_copy, no_store, file, content):
    (finished_copy / "models/digits/wide" / file).write_bytes(content)
    with pytest.raises(InputError, match=rf"models/digits/wide/{file} .*: run `rm -rf models/digits/wide` and"):
        evaluate(read())
    assert not (finished_copy / "ran").exists()


def test_what_could_not_be_measured_of_one_replica_is_known_of_none():
    assert all(map(np.isnan, summarize([{"nll": 1.0}, {"nll": float("nan")}]).values()))
