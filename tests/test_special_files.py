"""A named pipe where DVC looks for files holds no command up."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, dvc_init, environment

from flows.graph import dvc_graph
from flows.project.errors import InputError
from flows.untrusted import special_files

PLACES = ["sources/digits/pipe", "sources/folder/a/b.png", "models/digits/small/pipe", "data/digits/pipe"]


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Ended where it hangs, and what it has started with it."""
    command = ["timeout", "--kill-after=5", str(LIMIT / 5), sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode()


@pytest.fixture
def repository(project) -> Path:
    dvc_init(project)
    return project


@pytest.mark.parametrize("place", PLACES)
def test_a_named_pipe_is_named(repository, place):
    (repository / place).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(repository / place)
    for command in (
        ["flows.check"],
        ["flows.check", "-S", "seed=1"],
        ["flows.commands.status"],
        ["flows.pipeline", "--dry"],
    ):
        code, said = run(repository, *command)
        assert code == 2, said
        assert said.startswith(f"trainyard: {place} is a named pipe, and no plain file")
        assert said.count("\n") == 1


def test_where_dvc_runs_the_first_stage_it_ends_there(repository):
    """Before DVC reads sources/ for the second one."""
    for name in ("flows", "lightning_modules"):
        (repository / name).symlink_to(ROOT / name)
    os.mkfifo(repository / "sources" / "digits" / "pipe")
    code, said = run(repository, "dvc", "repro")
    assert code == 255
    assert "sources/digits/pipe is a named pipe" in said


def test_behind_a_link(repository, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.mkfifo(tmp_path / "elsewhere" / "pipe")
    (repository / "sources" / "folder" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"sources/folder/a/pipe is a named pipe"):
        dvc_graph.stale(repository)
    (repository / "sources" / "folder" / "a").unlink()
    (repository / "sources" / "folder" / "b.png").symlink_to(tmp_path / "elsewhere" / "pipe")
    with pytest.raises(InputError, match=r"sources/folder/b.png is a named pipe"):
        special_files.refuse(repository)


def test_what_may_be_there(repository, tmp_path):
    """Links in circles and to nothing, and pipes where DVC does not look."""
    (repository / "sources" / "folder" / "round").symlink_to(repository / "sources")
    (repository / "sources" / "folder" / "nothing").symlink_to(tmp_path / "nothing")
    (repository / "data" / "incoming").mkdir(parents=True)
    os.mkfifo(repository / "data" / "incoming" / "pipe")
    os.mkfifo(repository / "pipe")
    special_files.refuse(repository)


def test_a_socket_is_none_either(repository):
    with socket.socket(socket.AF_UNIX) as one, pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository / "sources" / "digits")  # for its name may be of a hundred bytes
        one.bind("socket")
    with pytest.raises(InputError, match="sources/digits/socket is a socket"):
        special_files.refuse(repository)
