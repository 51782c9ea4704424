"""What `make setup` would run, with uv and without: the same packages, each with its pinned version."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, environment


@pytest.fixture
def uv(tmp_path) -> Path:
    """A program of that name."""
    program = tmp_path / "uv"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def installs(target: str, path: Path, *variables: str) -> list[str]:
    """The lines of its recipe that install, where no programs are found but those of a folder."""
    command = [shutil.which("make"), "--dry-run", "--always-make", target, *variables]
    env = {name: value for name, value in environment().items() if name != "UV"} | {"PATH": os.fspath(path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.replace("\\\n", "").splitlines() if "pip install" in line]


@pytest.mark.parametrize(("target", "extras"), [("setup", ["test"]), ("setup-servers", ["test", "servers"])])
def test_what_is_installed_is_pinned_with_pip_and_with_uv(uv, target, extras):
    nowhere = uv.parent / "empty"
    for lines, program in (
        (installs(target, nowhere), "python -m pip install"),
        (installs(target, uv.parent), f"{uv} pip install --python .venv/bin/python"),
        (installs(target, uv.parent, "UV="), "python -m pip install"),
    ):
        assert len(lines) == len(extras)
        for line, extra in zip(lines, extras):
            assert line.startswith(program)
            assert "--constraint constraints.txt" in line
            assert line.endswith(f"--editable '.[{extra}]'")
