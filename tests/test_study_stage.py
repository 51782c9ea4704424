"""A study as a user runs it: through DVC, in a clone, and in MLflow."""

import re
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

    dvc(clone, "plots", "show")
    shown = {file.name for file in (clone / "dvc_plots" / "static").iterdir()}
    assert shown == {
        f"workspace_studies_figures_{name}_{figure}.svg" for name in ("first", "second") for figure in FIGURES
    }

    content = yaml.safe_load((clone / "studies" / "studies.yaml").read_text(encoding="utf-8"))
    content["studies"]["second"]["margin"] = 1.0
    write(clone, content)
    changed = dvc(clone, "repro", *(f"studies/dvc.yaml:study@{name}" for name in ("first", "second")))
    assert "study@second" in changed.partition("Running stage")[2]
    assert "Running stage 'studies/dvc.yaml:study@first'" not in changed
    assert "second: judged" in changed
    assert not re.search(r"^second: .* epochs", changed, re.MULTILINE)  # only what is said of the trainings has changed

    assert not any("study" in stage for stage in planning.plan(clone).stages)  # the main pipeline has no part of it
    monkeypatch.chdir(clone)
    client = mlflow_store.connect()
    place = client.get_experiment_by_name("studies").experiment_id
    runs = client.search_runs([place])
    kinds = [run.data.tags["trainyard.kind"] for run in runs]
    assert kinds.count("study") == 4  # the second once more, with another margin, and its repeat
    assert kinds.count("variant") == 4 * 2 * 2
    study = next(run for run in runs if run.data.tags["trainyard.kind"] == "study")
    assert "verdicts.svg" in {file.path for file in client.list_artifacts(study.info.run_id)}


def test_a_repeat_runs_after_what_it_repeats_and_stands_beside_it(clone):
    said = command(clone, "flows.commands.study", "--on", "blobs")
    stages = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert stages.index("studies/dvc.yaml:study@second") < stages.index("studies/dvc.yaml:repeat@third")
    assert "studies/dvc.yaml:study@first" not in stages
    assert "## On digits and blobs" in said
    assert {file.stem for file in (clone / "studies" / "figures" / "third").iterdir()} == FIGURES | {
        "heat_map",
        "performance_profile",
    }
    said = command(clone, "flows.commands.study", "--on", "mnist", code=2)
    assert said == 'trainyard: unknown dataset "mnist". Known: blobs, digits\n'


def changed(clone: Path, name: str, **changes) -> None:
    """Changes keys of a study's block; None removes one."""
    content = yaml.safe_load((clone / "studies" / "studies.yaml").read_text(encoding="utf-8"))
    block = content["studies"][name] | changes
    content["studies"][name] = {key: value for key, value in block.items() if value is not None}
    write(clone, content)


MISTAKE = 'studies.yaml: studies.first: baseline: unknown variant "adamm". Did you mean "adam"? Known: adam, sgd'


def test_a_mistake_is_told_before_anything_runs_and_costs_no_result(clone):
    command(clone, "flows.commands.study", "first")
    before = (clone / "studies" / "results" / "first" / "verdicts.md").read_text(encoding="utf-8")
    changed(clone, "first", baseline="adamm")
    assert command(clone, "flows.commands.study", "first", code=2) == f"trainyard: {MISTAKE}\n"
    assert f"trainyard: {MISTAKE}\n" in dvc(clone, "repro", "studies/dvc.yaml:study@first", code=None)
    assert (clone / "studies" / "results" / "first" / "verdicts.md").read_text(encoding="utf-8") == before


def test_a_study_that_stops_dvc_is_named_by_its_own_mistake(clone):
    changed(clone, "second", dataset=None)
    assert command(clone, "flows.commands.study", "first", code=2) == (
        "trainyard: studies.yaml: studies.second.dataset is missing\n"
    )


def test_without_a_name_the_studies_are_listed_with_what_has_to_run(clone):
    new, stale = "(not run yet)", "(stale: studies.first has changed)"
    said = command(clone, "flows.commands.study")
    third = f"third   blobs: A test?  {new}\n"
    assert said == f"first   digits: A test?  {new}\nsecond  digits: A test?  {new}\n{third}"
    said = command(clone, "flows.commands.study", "first")
    assert said.startswith("first: asking DVC what is stale\n")  # at once: the rest takes seconds
    assert said.count("sgd (lr") == 1  # the verdicts, once, at the end
    assert command(clone, "flows.commands.study") == f"first   digits: A test?\nsecond  digits: A test?  {new}\n{third}"
    changed(clone, "first", seeds=4)
    changed(clone, "second", baseline=None)
    first, second, third = command(clone, "flows.commands.study").splitlines()
    assert first == f"first   digits: A test?  {stale}"
    assert second.startswith("second  (cannot run) studies.yaml: studies.second: baseline is missing: name the variant")
    assert third.startswith("third   (cannot run) ")  # as what it repeats
    changed(clone, "first", seeds=3)
    with (clone / "flows" / "studies" / "trials.py").open("a", encoding="utf-8") as file:
        file.write("OTHER = 1\n")
    assert command(clone, "flows.commands.study").splitlines()[0] == (
        "first   digits: A test?  (stale: the code has changed)"
    )


@pytest.mark.parametrize("text", ["studies: [", "data: {}\nstudies: {first: {about: A test?}}\nrepeats: {}"])
def test_a_studies_file_that_stops_dvc_is_named_where_the_main_pipeline_stops(clone, text):
    (clone / "studies" / "studies.yaml").write_text(text, encoding="utf-8")
    said = command(clone, "flows.commands.status", code=2)
    assert said.endswith(
        "a mistake in studies/studies.yaml stops the main pipeline too, and `trainyard study` names it\n"
    )
