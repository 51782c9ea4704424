"""Files of a project that were damaged or emptied: each is named in a sentence, or made anew."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT, environment
from PIL import Image

from flows import download, ensemble, evaluate, train
from flows.commands import champion, results, status, track
from flows.project.errors import InputError

COMMANDS = {
    "results": (results.command, []),
    "status": (status.command, []),
    "champion": (champion.command, []),
    "track": (track.command, []),
    "evaluate": (evaluate.command, []),
    "ensemble": (ensemble.command, []),
    "train": (train.command, ["small"]),
}
CONTENTS = {"empty": b"", "cut": None, "list": b"[]", "null": b"null", "no text": b"\xff\xfe\x00", "other": b'{"a": 1}'}


@pytest.fixture
def project(finished_with_store, monkeypatch) -> Path:
    """A finished project of which DVC says that nothing is stale."""
    monkeypatch.setattr("flows.graph.dvc_graph.stale", lambda root: {})
    monkeypatch.setattr("flows.graph.dvc_graph.stages", lambda root: {})
    return finished_with_store


def kept(folder: Path) -> list[Path]:
    """All text files that commands leave for others to read."""
    places = [".trainyard", "metrics", "data/digits", "models", "predictions", "plots", "settings", "ensembles"]
    files = [file for place in places for file in (folder / place).rglob("*") if file.is_file()]
    return sorted(
        file
        for file in files
        if file.suffix in (".json", ".csv", "") and not file.name.endswith(".lock") and "prefect" not in file.parts
    )


def outcome(command, arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command, of which errors are sentences; whatever else it raises is raised."""
    try:
        done = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    except InputError as error:
        return 2, str(error)
    return done.return_value or 0, done.output


@pytest.mark.parametrize(
    ("name", "content"),
    # What takes seconds is tried with one kind of damage.
    [(name, content) for name in COMMANDS for content in (CONTENTS if name in ("results", "status") else ["cut"])],
)
def test_each_damaged_file_is_named_or_made_anew(project, name, content):
    command, arguments = COMMANDS[name]
    files = kept(project)
    assert {"scores.json", "ensemble.json", "member.json", "dataset.json", "history.csv"} <= {
        file.name for file in files
    }
    whole = {file: file.read_bytes() for file in files}
    seen = set()
    for file in files:
        if name == "train" and file.parts[len(project.parts)] not in ("data", ".trainyard"):
            continue  # which it does not read
        damaged = CONTENTS[content] if CONTENTS[content] is not None else whole[file][: len(whole[file]) // 2]
        file.write_bytes(damaged)
        code, said = outcome(command, arguments)
        seen.add(code)
        if code:
            assert file.name in said or file.parent.name in said, (file, said)
            assert len(said) < 700, (file, said)
        for other, before in whole.items():
            if not other.exists() or other.read_bytes() != before:
                other.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(PermissionError):
                    other.write_bytes(before)
    # What only tells of champions and stale stages reads none of the results.
    assert seen == ({0} if name in ("status", "champion") else {0, 2})


def test_a_folder_that_leads_to_another_disk_is_refused_before_any_work(project, tmp_path):
    for name, command, arguments in (("data", download.command, []), ("models", train.command, ["small"])):
        other = tmp_path / f"another disk {name}"
        shutil.move(project / name, other)
        (project / name).symlink_to(other)
        before = sorted(other.rglob("*"))
        code, said = outcome(command, arguments)
        assert code == 2
        assert f"{name} is a link to {other}, and DVC takes no results from behind a link" in said
        assert "dvc cache dir" in said
        assert sorted(other.rglob("*")) == before
        (project / name).unlink()
        shutil.move(other, project / name)


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'


def test_what_only_reads_works_in_a_copy_that_nobody_can_write_to(finished_once, tmp_path):
    folder = tmp_path / "a project"
    shutil.copytree(finished_once, folder)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    make_repository(folder)
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, folder]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, of util-linux, and to be allowed to mount a folder for reading alone")
    assert subprocess.run([*alone, "touch", "here"], capture_output=True).returncode
    for command in (["results"], ["status"], ["champion"], ["predict", tmp_path / "image.png"]):
        done = subprocess.run(
            [*alone, sys.executable, "-m", "flows.cli", *command], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "version 1" in done.stdout or command[0] in ("results", "predict")


def make_repository(folder: Path) -> None:
    """Of DVC, with the pipeline of this project."""
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir(exist_ok=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    for name in ("flows", "lightning_modules"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", folder, "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "a project"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
