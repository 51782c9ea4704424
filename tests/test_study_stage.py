"""A study as a user runs it: through DVC, in a clone, and in MLflow."""

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_repro import command, copy_of_sources, dvc, git
from test_studies import MEMBER

from flows.graph import planning
from flows.tracking import mlflow_store

pytestmark = pytest.mark.long

STUDIES = {
    "data": {"digits": {"test": 0.2}, "blobs": {"test": 0.2}},
    "studies": {
        name: {
            "about": "A test?",
            "dataset": "digits",
            "member": MEMBER,
            "vary": {"optimizer.name": ["sgd", "adam"]},
            "tune": {"optimizer.lr": [0.01, 0.1]},
            "baseline": "sgd",
            "seeds": 3,
        }
        for name in ("first", "second")
    },
    "repeats": {"third": {"of": "second", "dataset": "blobs"}},
}
FIGURES = {"verdicts", "learning_curves", "sensitivity", "budget", "steps_to_target"}


def write(place: Path, content: dict) -> None:
    (place / "studies" / "studies.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture
def clone(tmp_path) -> Path:
    place = tmp_path / "a clone"
    place.mkdir()
    copy_of_sources(place)
    (place / "studies").mkdir()
    shutil.copy(ROOT / "studies" / "dvc.yaml", place / "studies")
    write(place, STUDIES)
    git(place, "init", "--quiet")
    return place


def test_studies_are_stages_that_run_once_and_the_changed_one_alone_again(clone, monkeypatch):
    said = command(clone, "flows.commands.study", "first", "second")
    assert "sgd" in said
    assert "| adam" in said
    for name in ("first", "second"):
        result = clone / "studies" / "results" / name
        assert {file.stem for file in (clone / "studies" / "figures" / name).glob("*")} == FIGURES
        assert {file.stem for file in result.glob("*.json")} == FIGURES
        assert "A test?" in (result / "verdicts.md").read_text(encoding="utf-8")
        assert len((result / "table.csv").read_text(encoding="utf-8").splitlines()) == 3
    again = command(clone, "flows.commands.study", "first", "second")
    assert "Running stage" not in again
    content = yaml.safe_load((clone / "studies" / "studies.yaml").read_text(encoding="utf-8"))
    content["studies"]["second"]["margin"] = 1.0
    write(clone, content)
    changed = dvc(clone, "repro", "studies/dvc.yaml")
    assert "study@second" in changed.partition("Running stage")[2]
    assert "Running stage 'studies/dvc.yaml:study@first'" not in changed
    assert "epochs" not in changed  # only what is said of the trainings has changed

    assert not any("study" in stage for stage in planning.plan(clone).stages)  # the main pipeline has no part of it
    monkeypatch.chdir(clone)
    client = mlflow_store.connect()
    place = client.get_experiment_by_name("studies").experiment_id
    runs = client.search_runs([place])
    kinds = [run.data.tags["trainyard.kind"] for run in runs]
    assert kinds.count("study") == 3  # the second once more, with another margin
    assert kinds.count("variant") == 3 * 2 * 2
    study = next(run for run in runs if run.data.tags["trainyard.kind"] == "study")
    assert "verdicts.svg" in {file.path for file in client.list_artifacts(study.info.run_id)}


def test_a_mistake_is_told_by_the_command_before_dvc_runs(clone):
    content = yaml.safe_load((clone / "studies" / "studies.yaml").read_text(encoding="utf-8"))
    content["studies"]["first"]["baseline"] = "adamm"
    write(clone, content)
    said = command(clone, "flows.commands.study", "first", code=2)
    assert (
        said
        == 'trainyard: studies.yaml: studies.first: unknown variant "adamm". Did you mean "adam"? Known: adam, sgd\n'
    )


def test_without_a_name_the_studies_are_listed(clone):
    said = command(clone, "flows.commands.study")
    assert said == "first   A test?  (not run yet)\nsecond  A test?  (not run yet)\n"
