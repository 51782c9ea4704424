"""How the tests themselves run: one that crashes takes only itself along."""

import subprocess
import sys

from conftest import ROOT, environment

CRASHING = """
import os, signal, pytest

@pytest.mark.parametrize("number", range(6))
def test_one_of_many(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_crash_takes_only_itself_along_and_is_named(tmp_path):
    described = (ROOT / "Makefile").read_text()
    [options] = [line.partition("pytest ")[2] for line in described.splitlines() if line.startswith("PYTEST = ")]
    (tmp_path / "test_crashing.py").write_text(CRASHING)
    command = [sys.executable, "-m", "pytest", *options.split(), "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 5 passed" in done.stdout
    assert "crashed while running 'test_crashing.py::test_one_of_many[2]'" in done.stdout
