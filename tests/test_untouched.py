"""DVC is asked what is stale once, and again as soon as anything was touched that it might answer otherwise for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

from flows import graph, untouched

STAGES = """
stages:
  first:
    cmd: mkdir -p made/deep && cp given made/deep/copy
    deps: [given]
    params: [seed]
    outs: [made]
"""


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, env=environment(), check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "a project"
    root.mkdir()
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "dvc.yaml").write_text(STAGES)
    (root / "given").write_text("1")
    dvc(root, "init", "--no-scm", "--quiet")
    dvc(root, "repro", "--quiet")
    return root


@pytest.fixture
def toy(finished, tmp_path) -> Path:
    # Not as links: what a test writes to its copy's cache is its own.
    return shutil.copytree(finished, tmp_path / "a project")


@pytest.fixture
def asked(monkeypatch) -> list:
    """Grows by one whenever DVC is asked."""
    calls = []
    run = subprocess.run

    def counted(*arguments, **options):
        calls.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(graph.subprocess, "run", counted)
    return calls


def test_what_is_up_to_date_is_asked_once(toy, asked):
    for _ in range(3):
        assert graph.stale(toy) == {}
    assert len(asked) == 1


def rewrite(file: Path) -> None:
    """Other content of the same size and with the same time: DVC does not see that itself."""
    about = file.stat()
    file.write_text("2" * about.st_size)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda toy: (toy / "given").write_text("2"), True),
        (lambda toy: rewrite(toy / "given"), False),
        (lambda toy: (toy / "made" / "new").write_text("x"), True),
        (lambda toy: (toy / "made" / "deep" / "copy").unlink(), True),
        (lambda toy: (toy / "params.yaml").write_text("seed: 1\n"), True),
        (lambda toy: (toy / "dvc.yaml").write_text(STAGES.replace("-p", "-vp")), True),
        (lambda toy: (toy / "dvc.lock").unlink(), True),
        (lambda toy: [file.unlink() for file in (toy / ".dvc" / "cache").rglob("*") if file.is_file()], True),
        (lambda toy: (toy / "study").mkdir() or (toy / "study" / "dvc.yaml").write_text(STAGES), True),
        (lambda toy: (toy / "README").write_text("x"), False),
    ],
)
def test_it_is_asked_again_when_anything_was_touched(toy, asked, change, stale):
    assert graph.stale(toy) == {}
    change(toy)
    assert bool(graph.stale(toy)) == stale
    assert len(asked) == 2


def test_what_dvc_and_others_note_for_themselves_is_no_touch(toy, asked):
    assert graph.stale(toy) == {}
    for place in (
        ".dvc/tmp/rwlock",
        ".trainyard/unfinished/x",
        "mlflow.db",
        "mlflow.db.lock",
        "flows/__pycache__/a.pyc",
    ):
        (toy / place).parent.mkdir(parents=True, exist_ok=True)
        (toy / place).write_text("x")
    assert graph.stale(toy) == {}
    assert len(asked) == 1


def test_what_is_stale_is_never_remembered(toy, asked):
    (toy / "given").write_text("22")
    for _ in range(2):
        assert graph.stale(toy) == {"first": ["given: modified"]}
    assert len(asked) == 2


def test_what_was_touched_while_dvc_was_asked_is_not_remembered(toy, asked, monkeypatch):
    before = untouched.look(toy)
    (toy / "given").write_text("22")
    untouched.remember(toy, before)
    assert graph.stale(toy) == {"first": ["given: modified"]}


def test_a_file_that_cannot_be_looked_at_makes_no_trouble(toy, asked):
    (toy / "nowhere").symlink_to(toy / "gone")
    for _ in range(2):
        assert graph.stale(toy) == {}
    assert len(asked) == 2


def outside(toy: Path, place: str) -> None:
    (toy / "dvc.yaml").write_text(STAGES.replace("[given]", f"[given, '{place}']"))
    dvc(toy, "commit", "--force", "--quiet")


def test_what_lies_outside_is_asked_about_always(toy, asked, tmp_path):
    (tmp_path / "far").write_text("1")
    for place in ("../far", os.fspath(tmp_path / "far")):
        outside(toy, place)
        calls = len(asked)
        assert graph.stale(toy) == {}
        assert graph.stale(toy) == {}
        assert len(asked) == calls + 2
    (tmp_path / "far").write_text("2")
    assert graph.stale(toy)


def test_behind_a_linked_folder_or_with_a_cache_elsewhere_it_is_asked_always(toy, asked, tmp_path):
    (tmp_path / "data").mkdir()
    (toy / "data").symlink_to(tmp_path / "data", target_is_directory=True)
    for _ in range(2):
        assert graph.stale(toy) == {}
    (toy / "data").unlink()
    assert len(asked) == 2
    dvc(toy, "config", "--local", "cache.dir", os.fspath(tmp_path / "cache"))
    shutil.copytree(toy / ".dvc" / "cache", tmp_path / "cache")
    calls = len(asked)
    for _ in range(2):
        assert graph.stale(toy) == {}
    assert len(asked) == calls + 2
