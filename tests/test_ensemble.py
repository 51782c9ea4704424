"""The vote: who votes, how the way is chosen, what is registered, and that it is served without this project."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, edit, environment

from flows.data import dataset
from flows.ensemble import ensemble
from flows.ensembles import fitting, record
from flows.ensembles.choice import choose
from flows.params.params_file import Params, read
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.tracking import experiments, mlflow_store
from lightning_modules import scores
from lightning_modules.ensembles import Combiner
from lightning_modules.tasks import Classification

CLASSES = Classification({"class_names": []})


def votes(split: str, params: Params) -> torch.Tensor:
    return torch.cat(
        [torch.from_numpy(np.load(paths.predictions_file("digits", member, split))) for member in params.members]
    )


def labels(split: str) -> torch.Tensor:
    return torch.from_numpy(dataset.load("digits").split(split)[1])


def table(name: str) -> list[dict]:
    with (paths.plots_folder("digits") / "ensemble" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def probabilities(result: dict, params: Params, split: str) -> torch.Tensor:
    """Of the ensemble as its files describe it."""
    made = record.read("digits")
    assert made.method == result["method"]
    return Combiner(made.method, {name: torch.tensor(values) for name, values in made.fitted.items()})(
        votes(split, params)
    )


def versions() -> dict[str, list[str]]:
    """Aliases by version of the registered model."""
    client = mlflow_store.connect()
    aliases = client.get_registered_model("digits").aliases
    found = client.search_model_versions("name = 'digits'")
    return {
        str(one.version): sorted(alias for alias, number in aliases.items() if str(number) == str(one.version))
        for one in found
    }


def test_the_numbers_agree(finished):
    params, result = read(), file_io.read_json(paths.ensemble_metrics_file("digits"))
    measured = scores.score(probabilities(result, params, "test"), labels("test"))
    assert result["test"] == pytest.approx(measured, rel=1e-5)
    # On validation what is fitted was fitted to other images.
    vote = fitting.out_of_fold(CLASSES, result["method"], votes("validation", params), labels("validation"))
    assert result["validation"] == pytest.approx(scores.score(vote, labels("validation")), rel=1e-5)
    members = {name: file_io.read_json(paths.member_metrics_file("digits", name)) for name in params.members}
    best = min(members, key=lambda name: members[name]["validation"]["nll"])
    assert result["best_member"] == best
    assert result["gain"]["accuracy"] == pytest.approx(result["test"]["accuracy"] - members[best]["test"]["accuracy"])
    assert result["gain"]["nll"] == pytest.approx(members[best]["test"]["nll"] - result["test"]["nll"])
    assert result["networks"] == 3
    assert result["parameters"] == 2 * members["small"]["parameters"] + members["wide"]["parameters"]
    choices = votes("test", params).argmax(2)
    pairs = [(choices[a] != choices[b]).double().mean().item() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert result["disagreement"] == pytest.approx(np.mean(pairs))
    weights = [float(row["weight"]) for row in table("weights")]
    assert sum(weights) == pytest.approx(1)
    assert [row["network"] for row in table("weights")] == ["small-0", "small-1", "wide-0"]
    assert len(table("confusion")) == len(labels("test"))


def test_the_chosen_way_is_the_best_on_validation_and_alone_scored_on_test(finished):
    params, result = read(), file_io.read_json(paths.ensemble_metrics_file("digits"))
    methods = {row["method"]: float(row["nll"]) for row in table("methods")}
    assert list(methods) == params.ensemble.labels
    assert result["method"] == min(methods, key=methods.get)
    # What an unchosen way would have scored on test is nowhere to be found.
    written = "".join(
        file.read_text()
        for folder in ("metrics", "plots")
        for file in sorted((finished / folder / "digits").glob("ensemble*/*" if folder == "plots" else "ensemble.json"))
    )
    client = mlflow_store.connect()
    for run in client.search_runs([experiments.experiment(client, "digits")], "tags.`trainyard.kind` = 'ensemble'"):
        written += json.dumps(run.data.metrics)
    for method in methods:
        fitted = fitting.fit(CLASSES, method, votes("validation", params), labels("validation"))
        test = scores.score(fitted(votes("test", params)), labels("test"))
        assert (f"{test['nll']:.8f}"[:7] in written) == (method == result["method"])


def test_the_order_of_members_is_irrelevant(finished_copy, no_store):
    before = file_io.read_json(paths.ensemble_metrics_file("digits"))
    after = ensemble(
        edit(finished_copy, lambda content: content.update(members=dict(reversed(content["members"].items()))))
    )
    assert after["method"] == before["method"]
    assert after["best_member"] == before["best_member"]
    for part in ("validation", "test", "gain"):
        assert after[part] == pytest.approx(before[part], rel=1e-4, abs=1e-7)
    assert after["disagreement"] == pytest.approx(before["disagreement"])


def test_a_dropped_member_does_not_vote_and_one_network_is_an_ensemble_like_itself(finished_copy, no_store, capsys):
    params = edit(finished_copy, lambda content: content["members"].pop("small"))
    assert (finished_copy / "models" / "digits" / "small").is_dir()
    assert paths.predictions_file("digits", "small", "test").exists()
    result = ensemble(params)
    alone = file_io.read_json(paths.member_metrics_file("digits", "wide"))
    assert result["networks"] == 1
    assert result["method"] == "soft_vote"
    said = capsys.readouterr().out
    assert "soft_vote of 1 network: " in said
    assert "disagree" not in said
    assert result["disagreement"] == 0
    assert result["test"]["nll"] == pytest.approx(alone["test"]["nll"], rel=1e-5)
    assert result["gain"] == pytest.approx({"accuracy": 0, "nll": 0}, abs=1e-6)


def test_the_calibration_error_of_seven_equal_networks_is_that_of_one(finished_copy, no_store):
    """Their mean probability, rounded, was above 1; the calibration error was then that of other numbers: 0.77."""
    params = edit(finished_copy, lambda content: content["ensemble"].update(methods=["soft_vote"]))
    (finished_copy / "predictions/digits/files.json").unlink()  # their digests
    for split in paths.SPLITS:
        sure = torch.nn.functional.one_hot(labels(split).roll(3), 10).float().mul(60).log_softmax(1)
        right = torch.arange(len(sure)) % 100 > 0
        sure[right] = sure.roll(-3, 0)[right]
        for member, replicas in (("small", 6), ("wide", 1)):
            np.save(paths.predictions_file("digits", member, split), sure.expand(replicas, -1, -1).numpy())
    test = ensemble(params)["test"]
    assert 0.95 < test["accuracy"] < 1
    assert test["ece"] == pytest.approx(1 - test["accuracy"], abs=1e-6)


def test_a_method_that_is_not_listed_is_not_chosen(finished_copy, no_store):
    params = edit(finished_copy, lambda content: content["ensemble"].update(methods=["hard_vote"]))
    assert ensemble(params)["method"] == "hard_vote"
    assert [row["method"] for row in table("methods")] == ["hard_vote"]


def test_the_other_score_decides_between_equals_then_the_first():
    candidates = {
        "a": {"nll": 1.0, "accuracy": 0.5},
        "b": {"nll": 1.0, "accuracy": 0.6},
        "c": {"nll": 2.0, "accuracy": 0.7},
        "d": {"nll": 1.0, "accuracy": 0.6},
    }
    assert choose(candidates, "nll") == "b"
    assert choose(candidates, "accuracy") == "c"
    assert choose(dict(reversed(candidates.items())), "nll") == "d"
    unknown = {"n": dict.fromkeys(("nll", "accuracy"), float("nan"))}
    for select_by, best in (("nll", "b"), ("accuracy", "c")):
        assert choose(unknown | candidates, select_by) == choose(candidates | unknown, select_by) == best


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("models/digits/wide", "models/digits/wide does not exist: run dvc repro train@wide"),
        ("predictions/digits", "predictions/digits/small.validation.npy does not exist: run dvc repro evaluate"),
        ("metrics/digits/members", "metrics/digits/members/small.json does not exist: run dvc repro evaluate"),
    ],
)
def test_what_is_missing_is_bad_input(finished_copy, no_store, missing, said):
    shutil.rmtree(finished_copy / missing)
    before = paths.ensemble_metrics_file("digits").read_bytes()
    with pytest.raises(InputError, match=said):
        ensemble(read())
    assert paths.ensemble_metrics_file("digits").read_bytes() == before


def test_the_first_is_champion_the_same_again_nothing_new_a_changed_one_challenger(finished_copy, capfd):
    def register(method: str) -> None:
        ensemble(edit(finished_copy, lambda content: content["ensemble"].update(methods=[method])))

    register("soft_vote")
    assert versions() == {"1": ["challenger", "champion"]}
    register("soft_vote")
    assert versions() == {"1": ["challenger", "champion"]}
    register("hard_vote")
    assert versions() == {"1": ["champion"], "2": ["challenger"]}
    said = capfd.readouterr()
    assert said.err == ""
    assert [line for line in said.out.splitlines() if line.startswith("registered")] == [
        "registered: digits version 1, challenger and champion",
        "registered: digits version 1, challenger and champion",
        "registered: digits version 2, challenger; the champion is version 1",
    ]
    register("soft_vote")
    assert versions() == {"1": ["challenger", "champion"], "2": []}


def test_the_first_is_no_champion_without_a_number_for_each_score(finished_copy, capfd, monkeypatch):
    def score(*arguments) -> dict[str, float]:
        return original(*arguments) | {"ece": float("nan")}

    original = scores.score
    monkeypatch.setattr(scores, "score", score)
    ensemble(read())
    assert versions() == {"1": ["challenger"]}
    assert "version 1, challenger; not champion, since it has no number for test_ece" in capfd.readouterr().out


SERVE = """
import sys
repository, uri, images, answers = sys.argv[1:]
sys.path = [place for place in sys.path if place not in ("", repository) and "editable" not in place]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
for name in ("flows", "lightning_modules"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported: this would prove nothing")
import mlflow, numpy
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/digits@champion")
images = numpy.load(images)
for count in (1, 7, len(images)):
    frame = model.predict(images[:count])
    assert len(frame) == count, frame
frame.to_json(answers)
"""


def test_the_champion_is_served_without_this_project(finished, tmp_path):
    images, _ = dataset.load("digits").split("test")
    np.save(tmp_path / "images.npy", images)
    arguments = [ROOT, f"sqlite:///{finished / 'mlflow.db'}", tmp_path / "images.npy", tmp_path / "a.json"]
    command = [sys.executable, "-c", SERVE, *arguments]
    subprocess.run(command, cwd=tmp_path, env=environment(PYTHONPATH=""), check=True)
    answers = json.loads((tmp_path / "a.json").read_text())
    result = file_io.read_json(paths.ensemble_metrics_file("digits"))
    expected = probabilities(result, read(), "test").exp()
    classes = dataset.load("digits").card["class_names"]
    served = torch.tensor([[answers[name][str(row)] for name in classes] for row in range(len(images))])
    torch.testing.assert_close(served.float(), expected, atol=1e-5, rtol=1e-4)
    assert [answers["label"][str(row)] for row in range(len(images))] == [
        classes[best] for best in expected.argmax(1).tolist()
    ]


def test_a_champion_is_set_where_a_kill_prevented_it(finished_copy):
    ensemble(read())
    client = mlflow_store.connect()
    for alias in ("champion", "challenger"):
        client.delete_registered_model_alias("digits", alias)
    ensemble(read())
    assert versions() == {"1": ["challenger", "champion"]}


def test_an_ensemble_that_cannot_be_exported_fails_the_stage(finished_copy, monkeypatch):
    """It is not told as a fault of MLflow's, behind which the stage would be green."""

    def fails(*_):
        raise RuntimeError("cannot trace this network")

    monkeypatch.setattr("flows.models.export.export", fails)
    with pytest.raises(RuntimeError, match="cannot trace"):
        ensemble(read())


def test_a_version_is_tagged_with_the_test_data_that_it_was_scored_on(finished):
    client = mlflow_store.connect()
    version = client.get_model_version_by_alias("digits", "champion")
    assert version.tags["trainyard.test_sha256"] == dataset.load("digits").card["test_sha256"]
