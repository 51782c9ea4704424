"""A working copy runs another dataset or seed, and leaves the project as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, dvc_init, environment

from flows.graph import dvc_graph, working_copy
from flows.params import params_file
from flows.project import paths
from flows.project.errors import InputError

STAGES = """
stages:
  seeded:
    cmd: cat sources/given code/text > out && grep seed params.yaml >> out
    deps: [sources/given, code/text]
    params: [seed]
    outs: [out]
"""


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "a project"
    for name in ("sources", "code"):
        (root / name).mkdir(parents=True)
    (root / "sources" / "given").write_text("given\n")
    (root / "code" / "text").write_text("code\n")
    (root / "params.yaml").write_text((ROOT / "tests" / "params.yaml").read_text())
    (root / "dvc.yaml").write_text(STAGES)
    dvc_init(root)
    dvc(root, "remote", "add", "--local", "near", "../remote")
    monkeypatch.chdir(root)
    return root


def files(root: Path) -> dict[str, bytes]:
    """Of the project but for DVC's own."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != ".dvc"
    }


def written(copy: Path) -> dict[str, tuple[int, int]]:
    """Which file or link is there under each name, and since when."""
    return {os.fspath(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in copy.rglob("*")}


def test_it_runs_with_its_own_params_and_the_project_stays_as_it_is(toy):
    dvc(toy, "repro", "--quiet")
    before = files(toy)
    copy = working_copy.make(toy, "digits-fresh", {"seed": 77})
    assert dvc_graph.stale(copy) == {"seeded": ["never run"]}
    dvc(copy, "repro", "--quiet")
    assert (copy / "out").read_text().splitlines()[:3] == ["given", "code", "seed: 77"]
    assert files(toy) == before
    assert dvc_graph.stale(toy) == dvc_graph.stale(copy) == {}
    # A cache of its own would hold the data set twice.
    assert dvc(copy, "cache", "dir").strip() == str(toy / ".dvc" / "cache")
    assert not (copy / ".dvc" / "cache").exists()


def test_it_follows_the_project_and_what_is_up_to_date_does_not_run_again(toy):
    copy = working_copy.make(toy, "digits-fresh", {"seed": 77})
    dvc(copy, "repro", "--quiet")
    written = (copy / "out").stat().st_mtime_ns
    (toy / "more").mkdir()
    assert working_copy.make(toy, "digits-fresh", {"seed": 77}) == copy
    assert (copy / "more").resolve() == toy / "more"
    assert dvc_graph.stale(copy) == {}
    assert (copy / "out").stat().st_mtime_ns == written
    (toy / "code" / "text").write_text("new code\n")
    (toy / "more").rmdir()
    working_copy.make(toy, "digits-fresh", {"seed": 77})
    assert dvc_graph.stale(copy) == {"seeded": ["code/text: modified"]}
    assert not os.path.lexists(copy / "more")


def test_what_a_run_may_be_reading_is_not_touched(toy):
    """While a run is at work in the copy, another one may ask what would be done."""
    changes = {"seed": 77}
    assert not working_copy.is_current(toy, "digits-fresh", changes)
    assert not (toy / ".dvc/tmp/exps").exists()
    copy = working_copy.make(toy, "digits-fresh", changes)
    before = written(copy)
    assert working_copy.make(toy, "digits-fresh", changes) == copy
    assert written(copy) == before
    assert working_copy.is_current(toy, "digits-fresh", changes)
    assert not working_copy.is_current(toy, "digits-fresh", {"seed": 78})
    (toy / "more").mkdir()
    assert not working_copy.is_current(toy, "digits-fresh", changes)


def test_remotes_are_those_of_the_project(toy):
    copy = working_copy.make(toy, "mnist", {"dataset": "mnist"})
    assert dvc(copy, "remote", "list").split()[:2] == ["near", str(toy.parent / "remote")]
    assert params_file.read(copy / "params.yaml").dataset == "mnist"


def test_runs_and_models_go_to_the_store_of_the_project(toy, monkeypatch):
    copy = working_copy.make(toy, "mnist", {"dataset": "mnist"})
    monkeypatch.chdir(copy)
    assert paths.root() == copy
    assert paths.home() == toy


def test_params_that_cannot_work_are_refused_before_anything_is_made(toy):
    content = yaml.safe_load((toy / "params.yaml").read_text())
    content["members"]["mlp"]["optimizer"]["name"] = "nothing"
    (toy / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError):
        working_copy.make(toy, "mnist", {"dataset": "mnist"})
    assert not (toy / ".dvc" / "tmp" / "exps").exists()
