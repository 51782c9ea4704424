"""What DVC says, as a graph, as reasons, and as what must run: on a small real DVC project."""

import shutil
from pathlib import Path

import pytest
from conftest import dvc, make_dvc_project

from flows.graph import dvc_graph
from flows.project.errors import InputError

STAGES = """
stages:
  first:
    cmd: echo one > first.txt
    params: [seed]
    outs: [first.txt]
  middle:
    foreach: [left, right]
    do:
      cmd: cat first.txt > ${item}.txt
      deps: [first.txt]
      outs: ['${item}.txt']
  last:
    cmd: cat left.txt right.txt > last.txt
    deps: [left.txt, right.txt]
    outs: [last.txt]
"""
NEEDS = {
    "first": [],
    "middle@left": ["first"],
    "middle@right": ["first"],
    "last": ["middle@left", "middle@right"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    study = "stages:\n  sweep:\n    cmd: echo > out\n    outs: [out]\n"
    return make_dvc_project(tmp_path_factory.mktemp("finished") / "toy", STAGES, **{"study/dvc.yaml": study})


@pytest.fixture
def toy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "a project")


def test_the_graph_is_dvcs_from_any_folder(toy, monkeypatch):
    assert dvc_graph.stages(toy) == {**NEEDS, "study/dvc.yaml:sweep": []}
    monkeypatch.chdir(toy / "study")
    assert dvc_graph.stages(toy) == {**NEEDS, "study/dvc.yaml:sweep": []}


STUDY = {"study/dvc.yaml:sweep": ["never run"]}


def test_nothing_is_stale_after_a_run(toy):
    assert dvc_graph.stale(toy) == STUDY


def test_reasons_name_what_changed(toy):
    (toy / "params.yaml").write_text("seed: 1\n")
    (toy / "left.txt").unlink()
    (toy / "dvc.yaml").write_text(STAGES.replace("cat left.txt right.txt", "cat right.txt left.txt"))
    assert dvc_graph.stale(toy) == STUDY | {
        "first": ["params.yaml seed: modified"],
        "middle@left": ["left.txt: deleted (`dvc checkout` brings it back)"],
        "last": ["left.txt: deleted", "cmd: modified"],
    }


METRICS = """
  measured:
    cmd: cat last.txt > measured.txt; echo 1 > score.json
    deps: [last.txt]
    outs: [measured.txt]
    metrics: [{score.json: {cache: false}}]
"""


def test_what_dvc_checkout_brings_back_is_said(toy):
    (toy / "dvc.yaml").write_text(STAGES + METRICS)
    dvc(toy, "repro", "--quiet")
    was = {file: (toy / file).read_text() for file in ("params.yaml", "dvc.lock", "score.json")}
    (toy / "params.yaml").write_text("seed: 1\n")
    (toy / "dvc.yaml").write_text((STAGES + METRICS).replace("echo one", "echo two").replace("echo 1", "echo 2"))
    dvc(toy, "repro", "--quiet")

    (toy / "dvc.yaml").write_text(STAGES + METRICS)  # as `git stash` does
    for file, text in was.items():
        (toy / file).write_text(text)
    brought_back = "modified (`dvc checkout` brings it back)"
    expected = STUDY | {
        "first": [f"first.txt: {brought_back}"],
        "middle@left": ["first.txt: modified", f"left.txt: {brought_back}"],
        "middle@right": ["first.txt: modified", f"right.txt: {brought_back}"],
        "last": ["left.txt: modified", "right.txt: modified", f"last.txt: {brought_back}"],
        "measured": ["last.txt: modified", f"measured.txt: {brought_back}"],
    }
    assert dvc_graph.stale(toy) == expected
    (toy / "score.json").write_text("3\n")  # git has it, DVC has not
    assert dvc_graph.stale(toy)["measured"] == [*expected["measured"], "score.json: modified"]
    (toy / "score.json").write_text(was["score.json"])
    (toy / "params.yaml").write_text("seed: 2\n")  # it has to run anyway
    assert dvc_graph.stale(toy)["first"] == ["params.yaml seed: modified", "first.txt: modified"]
    (toy / "params.yaml").write_text(was["params.yaml"])

    dvc(toy, "checkout", "--quiet", "dvc.yaml")
    assert dvc_graph.stale(toy) == STUDY
    (toy / "first.txt").unlink()
    assert dvc_graph.stale(toy)["first"] == ["first.txt: deleted (`dvc checkout` brings it back)"]
    shutil.rmtree(toy / ".dvc" / "cache")
    assert dvc_graph.stale(toy)["first"] == ["first.txt: not in cache"]


def test_a_stage_that_never_ran_says_so(toy):
    (toy / "dvc.yaml").write_text(STAGES.replace("[left, right]", "[left, right, new]"))
    assert dvc_graph.stale(toy) == STUDY | {"middle@new": ["never run"]}


def test_a_project_that_dvc_cannot_read_is_bad_input(toy, tmp_path):
    with pytest.raises(InputError, match="DVC cannot"):
        dvc_graph.stale(tmp_path)
    with pytest.raises(InputError, match="DVC cannot"):
        dvc_graph.stages(tmp_path)
    (toy / "dvc.yaml").write_text("stages: [")
    with pytest.raises(InputError, match="DVC cannot"):
        dvc_graph.stale(toy)


def test_selected_are_the_targets_and_what_they_need_in_order():
    needs = {**NEEDS, "study/dvc.yaml:sweep": ["first"], "raw.dvc": []}
    assert dvc_graph.select(needs) == ["first", "middle@left", "middle@right", "last"]
    assert dvc_graph.select(needs, ["middle@right"]) == ["first", "middle@right"]
    assert dvc_graph.select(needs, ["middle"]) == ["first", "middle@left", "middle@right"]
    assert dvc_graph.select(needs, ["study/dvc.yaml"]) == ["first", "study/dvc.yaml:sweep"]
    with pytest.raises(InputError, match=r'unknown stage "lest".*Did you mean "last"'):
        dvc_graph.select(needs, ["lest"])


def test_what_comes_after_a_stale_stage_must_run():
    selected = dvc_graph.select(NEEDS)
    assert dvc_graph.must_run(NEEDS, selected, {"middle@left": []}) == ["middle@left", "last"]
    assert dvc_graph.must_run(NEEDS, selected, {"first": []}) == selected
    assert dvc_graph.must_run(NEEDS, selected, {}) == []
    assert dvc_graph.must_run(NEEDS, dvc_graph.select(NEEDS, ["middle@right"]), {"middle@left": []}) == []


def test_a_check_of_what_changes_nothing_else_lets_no_other_stage_run():
    needs = {"check": [], "download": ["check"], "train": ["download"]}
    assert dvc_graph.must_run(needs, list(needs), {"check": []}) == ["check"]
    assert dvc_graph.must_run(needs, list(needs), {"check": [], "train": []}) == ["check", "train"]


def test_levels_count_only_what_runs():
    assert dvc_graph.levels(NEEDS, ["middle@left", "last"]) == {"middle@left": 0, "last": 1}


def test_a_chain_of_thousands_is_no_trouble():
    needs = {str(number): [str(number - 1)] if number else [] for number in range(5000)}
    assert dvc_graph.select(needs, ["4999"]) == list(needs)
