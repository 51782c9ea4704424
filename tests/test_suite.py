"""How the tests themselves run: one that crashes or hangs takes only itself along, and the lanes are what they say."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, environment

BAD = """
import ctypes, os, signal, pytest

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def hang():
    # In C, with Python's own lock held: no handler of a signal ever runs.
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)

@pytest.mark.parametrize("number", range(6))
def test_one_of_many(number):
    if number == 2:
        BAD()
"""


def makefile(name: str) -> str:
    """What a variable of the Makefile says."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    [value] = [line.partition(" = ")[2] for line in lines if line.startswith(f"{name} = ")]
    return value


def run_with(folder: Path, bad: str, **settings: float) -> str:
    """What a run as by `make test` says of six tests, of which one is bad."""
    (folder / "test_bad.py").write_text(BAD.replace("BAD()", f"{bad}()"))
    described = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, value in settings.items():
        described, count = re.subn(rf"^{name} = .*", f"{name} = {value}", described, flags=re.MULTILINE)
        assert count == 1
    (folder / "pyproject.toml").write_text(described)
    options = makefile("PYTEST").partition("pytest ")[2].split()
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_a_crash_takes_only_itself_along_and_is_named(tmp_path):
    said = run_with(tmp_path, "crash")
    assert "1 failed, 5 passed" in said
    assert "crashed while running 'test_bad.py::test_one_of_many[2]'" in said


@pytest.mark.long
def test_so_does_what_hangs_and_hears_no_signal(tmp_path):
    said = run_with(tmp_path, "hang", timeout=1, faulthandler_timeout=10)
    assert "1 failed, 5 passed" in said
    assert "crashed while running 'test_bad.py::test_one_of_many[2]'" in said


LOOK = """
import torch
print(torch.backends.cpu.get_cpu_capability())
torch.nn.Conv2d(16, 16, 3)(torch.zeros(2, 16, 32, 32))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86 processors")
def test_the_lane_without_avx512_has_none():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(
        re.findall(r"(\w+)=(\S+)", re.search(r"^\t@(.*) \$\(PYTEST\) -m numerics$", lines, re.MULTILINE)[1])
    )
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment(**variables, ONEDNN_VERBOSE="1"), capture_output=True, text=True,
        timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "AVX2\n" in done.stdout
    [isa] = re.findall(r"cpu,isa:(.*)", done.stdout)
    assert "AVX2" in isa
    assert "512" not in isa


def test_a_process_runs_tests_for_each_core_that_there_is_for_this_one():
    code = "import os, conftest; os.sched_getaffinity = lambda pid: {0, 1, 2}; "
    code += "print(conftest.pytest_xdist_auto_num_workers(None))"
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "3\n", done.stderr
