"""Stages that run in another working copy, with only a DVC remote between the two."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import dvc_init
from test_pipeline import ROOT, STAGE, dvc

from flows.graph import dvc_graph
from flows.machine.processes import Processes
from flows.orchestration import remote_stage
from flows.project.errors import InputError

STAGES = {
    "a": {"cmd": "python stage.py a 0", "outs": ["a.txt"]},
    "b": {
        "cmd": "mkdir -p metrics && cp a.txt metrics/b.txt",
        "deps": ["a.txt"],
        "metrics": [{"metrics": {"cache": False}}],
    },
    "c": {"cmd": "python stage.py c 0 a.txt metrics/b.txt", "deps": ["a.txt", "metrics"], "outs": ["c.txt"]},
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A project with three stages."""
    root = with_remote(tmp_path / "here", STAGES, STAGE)
    monkeypatch.chdir(root)
    return root


def with_remote(root: Path, stages: dict, program: str) -> Path:
    """A project whose DVC remote is a folder beside it."""
    root.mkdir()
    shutil.copy(ROOT / "params.yaml", root)
    (root / "stage.py").write_text(program)
    describe(root, stages)
    dvc_init(root)
    dvc(root, "remote", "add", "--quiet", "--default", "shared", str(root.parent / "remote"))
    return root


def describe(root: Path, stages: dict) -> None:
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def copy_of(root: Path, name: str) -> Path:
    copy = root.parent / name
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*.txt", "cache", "tmp", "dvc.lock", ".trainyard"))
    return copy


def send(here: Path, there: Path, stage: str, needs=(), **options) -> remote_stage.Return:
    lines: list[str] = []
    task = remote_stage.errand(here, stage, needs, dvc_graph.uncached(here), **options)
    with Processes() as processes:
        return remote_stage.run(task, there, processes, lines.append)


def test_what_one_copy_made_is_input_of_another(here):
    first, second = copy_of(here, "first"), copy_of(here, "second")
    for stage, needs, there in (("a", (), first), ("b", ("a",), second), ("c", ("a", "b"), first)):
        back = send(here, there, stage, needs)
        assert back.outcome.problem is None
        remote_stage.take_back(here, back, dvc_graph.uncached(here)[stage])
    assert not (here / "a.txt").exists()
    assert (here / "metrics" / "b.txt").read_text() == "a"
    dvc(here, "pull", "--quiet", "a", "c")
    assert (here / "c.txt").read_text() == "caa"
    assert dvc_graph.stale(here) == {}


def test_another_code_is_refused_before_it_runs(here):
    there = copy_of(here, "there")
    (there / "dvc.yaml").write_text((there / "dvc.yaml").read_text() + "# other\n")
    back = send(here, there, "a")
    assert "differs in dvc.yaml" in back.outcome.problem
    assert not (there / "a.txt").exists()


def test_another_file_is_not_taken_back(here):
    there = copy_of(here, "there")
    for copy in (here, there):
        describe(copy, {"a": STAGES["a"] | {"deps": ["stage.py"]}})
    (there / "stage.py").write_text((there / "stage.py").read_text() + "# other\n")
    back = send(here, there, "a")
    with pytest.raises(InputError, match=r"another stage\.py"):
        remote_stage.take_back(here, back, [])
    assert not (here / "dvc.lock").exists()


def test_a_persons_changes_are_not_written_over(here):
    there = copy_of(here, "there")
    me = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "params.yaml"), (*me, "commit", "-qm", "a")):
        subprocess.run(["git", *command], cwd=there, check=True)
    mine = "# mine\n" + (there / "params.yaml").read_text()
    (there / "params.yaml").write_text(mine)
    assert "not committed" in send(here, there, "a").outcome.problem
    assert (there / "params.yaml").read_text() == mine
    # What an errand left there itself is no person's.
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=there, check=True)
    for text in ("# one\n", "# two\n"):
        (here / "params.yaml").write_text(text + (here / "params.yaml").read_text())
        assert send(here, there, "a").outcome.problem is None


def test_a_remote_that_is_away_is_told(here):
    there = copy_of(here, "there")
    dvc(there, "remote", "modify", "--quiet", "shared", "url", "/proc/nowhere")
    problem = send(here, there, "a").outcome.problem
    assert problem.startswith("dvc push failed")


def test_what_other_errands_left_is_no_input(here):
    member = {"cmd": "mkdir -p models/toy/one && echo 1 > models/toy/one/w", "outs": ["models/toy/one"]}
    all_of_them = {"cmd": "ls models/toy > e.txt", "deps": ["models/toy"], "outs": ["e.txt"]}
    describe(here, {"m": member, "e": all_of_them})
    there = copy_of(here, "there")
    (there / "models" / "toy" / "old").mkdir(parents=True)
    for stage, needs in (("m", ()), ("e", ("m",))):
        back = send(here, there, stage, needs)
        assert back.outcome.problem is None
        remote_stage.take_back(here, back, [])
    dvc(here, "pull", "--quiet")
    assert (here / "e.txt").read_text() == "one\n"
    assert dvc_graph.stale(here) == {}


def test_tracked_files_travel_with_the_errand(here):
    (here / "given").mkdir()
    (here / "given" / "1.txt").write_text("1")
    there = copy_of(here, "there")
    shutil.rmtree(there / "given")
    for copy in (here, there):
        describe(copy, {"g": {"cmd": "cp given/1.txt g.txt", "deps": ["given"], "outs": ["g.txt"]}})
    dvc(here, "add", "--quiet", "given")
    dvc(here, "push", "--quiet", "given.dvc")
    back = send(here, there, "g", ["given.dvc"])
    assert back.outcome.problem is None
    assert (there / "g.txt").read_text() == "1"


def test_the_stage_is_given_the_variables(here):
    there = copy_of(here, "there")
    for copy in (here, there):
        describe(copy, {"v": {"cmd": "echo $MLFLOW_TRACKING_URI > v.txt", "outs": ["v.txt"]}})
    with Processes() as processes:
        variables = {"MLFLOW_TRACKING_URI": "http://10.0.0.2:5000"}
        task = remote_stage.errand(here, "v", (), dvc_graph.uncached(here))
        back = remote_stage.run(task, there, processes, lambda line: None, variables)
    assert back.outcome.problem is None
    assert (there / "v.txt").read_text() == "http://10.0.0.2:5000\n"
