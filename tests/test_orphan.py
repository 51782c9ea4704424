"""A stage ends when the DVC that started it is gone: with real process trees."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import LIMIT, dvc_init, soon

from flows.machine import orphans

STAGE = """
import os, time
from pathlib import Path
from flows.machine.orphans import die_with_dvc

assert die_with_dvc() is not None
Path("pid").write_text(str(os.getpid()))
time.sleep(3600)
Path("result").write_text("late")
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_dvc(tmp_path: Path, number: int):
    (tmp_path / "stage.py").write_text(STAGE)
    # Two commands in a line keep a shell between DVC and the stage.
    line = f"true; '{sys.executable}' stage.py; true"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  late:\n    cmd: {line}\n    outs: [result]\n")
    dvc_init(tmp_path)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.DEVNULL
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=tmp_path, env=env, stdout=output, stderr=output)
    try:
        assert soon(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        stage = int((tmp_path / "pid").read_text())
        assert not gone(stage)
        dvc.send_signal(number)
        dvc.wait(LIMIT)
        assert soon(lambda: gone(stage))
    finally:
        dvc.kill()
        dvc.wait()


def test_outside_dvc_nothing_is_watched(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert orphans.die_with_dvc() is None


def test_a_variable_alone_is_no_dvc(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@mlp")
    monkeypatch.setattr(orphans, "runs_dvc", lambda process: False)
    monkeypatch.setattr(orphans, "abandoned", lambda: False)
    assert orphans.die_with_dvc() is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["dvc", "repro"], True),
        (["/venv/bin/python", "/venv/bin/dvc", "repro"], True),
        (["/venv/bin/python", "-m", "dvc", "repro"], True),
        (["/venv/bin/python", "-m", "flows.train", "dvc"], False),
        (["/bin/sh", "-c", "dvc repro"], False),
        (["make", "repro"], False),
    ],
)
def test_dvc_is_told_from_other_commands(command, expected):
    class Process:
        def cmdline(self):
            return command

    assert orphans.runs_dvc(Process()) is expected


def test_a_stranger_with_dvcs_number_is_not_dvc(monkeypatch):
    class Stranger:
        def is_running(self):  # psutil compares the time of creation
            return False

        def status(self):
            return psutil.STATUS_RUNNING

    done = []
    monkeypatch.setattr(orphans, "GRACE", 0)
    monkeypatch.setattr(orphans.os, "kill", lambda pid, number: done.append((pid, number)))
    monkeypatch.setattr(orphans.os, "_exit", lambda code: done.append(code))
    orphans.watch(Stranger())
    # A handler that raises can be lost in a destructor: then the process is ended all the same.
    assert done == [(os.getpid(), signal.SIGTERM), 143]
