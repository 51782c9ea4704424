"""A stage in a fork of the process that has loaded its libraries, and what becomes of it when one of them is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from conftest import soon

from flows import preloaded

STAGE = """
    import os, sys, time, click
    from flows.console import run

    @click.command()
    @click.argument("what", nargs=-1)
    def command(what):
        loaded = "colorsys" in sys.modules
        print(os.getpid(), os.getppid(), os.getcwd(), os.environ.get("COLOUR"), *what, loaded, flush=True)
        print("to stderr", file=sys.stderr)
        if "wait" in what:
            import subprocess
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            print(child.pid, flush=True)
            time.sleep(60)
        if "die" in what:
            os.kill(os.getpid(), 9)
        if "fail" in what:
            from lightning_modules.errors import InputError
            raise InputError("it is too green")

    if __name__ == "__main__":
        run(command, libraries=True)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a_stage.py").write_text(textwrap.dedent(STAGE))
    return tmp_path


@pytest.fixture
def server(folder, monkeypatch):
    """The process with a library of little weight, and the variable by which stages find it."""
    monkeypatch.setattr(preloaded, "LIBRARIES", ("colorsys",))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(folder), *sys.path]))
    address = folder / "socket"
    process = psutil.Popen([sys.executable, "-m", "flows.preloaded", address, "colorsys", "no_such_library"])
    assert soon(address.exists)
    monkeypatch.setenv(preloaded.ADDRESS, os.fspath(address))
    yield process
    process.kill()
    process.wait()


def stage(folder: Path, *arguments: str, **env: str) -> psutil.Popen:
    return psutil.Popen(
        [sys.executable, "-m", "a_stage", *arguments], cwd=folder, env={**os.environ, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def gone(*pids: int) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_a_fork_is_the_stage(folder, server):
    own = stage(folder, "one", "two words", COLOUR="green")
    said, warned = own.communicate(timeout=30)
    pid, parent, *rest = said.split()
    assert int(pid) != own.pid
    assert int(parent) == server.pid
    assert rest == [os.fspath(folder), "green", "one", "two", "words", "True"]
    assert warned == "to stderr\n"
    assert own.returncode == 0


def test_its_exit_code_and_its_sentence_are_the_stages(folder, server):
    failing = stage(folder, "fail")
    _, warned = failing.communicate(timeout=30)
    assert failing.returncode == 2
    assert warned == "to stderr\ntrainyard: it is too green\n"


def test_a_signal_that_ends_the_fork_ends_the_stage(folder, server):
    dying = stage(folder, "die")
    dying.communicate(timeout=30)
    assert dying.returncode == -signal.SIGKILL


def test_many_at_once_are_kept_apart(folder, server):
    stages = [stage(folder, str(number)) for number in range(12)]
    for number, one in enumerate(stages):
        said, _ = one.communicate(timeout=60)
        assert said.split()[4] == str(number)
        assert one.returncode == 0


def test_the_projects_code_is_as_it_is_when_the_stage_begins(folder, server):
    assert stage(folder).communicate(timeout=30)[0]
    (folder / "a_stage.py").write_text(textwrap.dedent(STAGE).replace("os.getcwd()", "'edited'"))
    assert "edited" in stage(folder).communicate(timeout=30)[0]


def begin(folder: Path) -> tuple[psutil.Popen, int, int]:
    """A stage at work: its own process, the fork, and a child of the fork."""
    own = stage(folder, "wait")
    fork = int(own.stdout.readline().split()[0])
    return own, fork, int(own.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_stage_ends_the_fork_and_its_children(folder, server, number):
    own, fork, child = begin(folder)
    own.send_signal(number)
    own.communicate(timeout=30)
    assert own.returncode == -number
    assert soon(lambda: gone(fork, child))
    assert stage(folder).communicate(timeout=30)[0]  # the next one is served


def test_what_does_not_end_when_asked_is_killed(folder, server):
    stubborn = textwrap.dedent(STAGE).replace(
        "time.sleep(60)\n", "import signal; signal.signal(15, 1); time.sleep(60)\n"
    )
    (folder / "a_stage.py").write_text(stubborn)
    own, fork, _ = begin(folder)
    time.sleep(0.5)
    own.kill()
    own.wait(30)
    time.sleep(1)
    assert not gone(fork)
    assert soon(lambda: gone(fork), preloaded.GRACE + 10)


def test_an_interrupt_reaches_the_fork(folder, server):
    own, fork, child = begin(folder)
    own.send_signal(signal.SIGINT)
    own.communicate(timeout=30)
    assert own.returncode in (130, -signal.SIGINT)
    assert soon(lambda: gone(fork, child))


def test_killing_the_process_with_the_libraries_ends_its_stages_with_a_sentence(folder, server):
    own, fork, child = begin(folder)
    server.kill()
    _, warned = own.communicate(timeout=30)
    assert own.returncode == 1
    assert "was killed" in warned
    assert soon(lambda: gone(fork, child))
    alone = stage(folder)  # the next one does without
    assert int(alone.communicate(timeout=30)[0].split()[0]) == alone.pid


def test_it_ends_with_the_process_that_started_it(folder, server, monkeypatch):
    script = textwrap.dedent("""
        import subprocess, sys, time
        process = subprocess.Popen([sys.executable, "-m", "flows.preloaded", "other", "colorsys"])
        print(process.pid, flush=True)
        time.sleep(60)
    """)
    parent = psutil.Popen([sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert soon((folder / "other").exists)
    parent.kill()
    parent.communicate()
    assert soon(lambda: gone(child))


@pytest.mark.parametrize(
    ("stages", "given", "loads"),
    [
        (["check", "train@a", "train@b"], None, True),
        (["evaluate", "ensemble"], None, True),
        (["check", "train@a"], None, False),
        (["train@a", "train@b"], "0", False),
    ],
)
def test_libraries_are_loaded_for_several_stages_that_need_them(folder, monkeypatch, stages, given, loads):
    monkeypatch.setattr(preloaded, "LIBRARIES", ())
    if given:
        monkeypatch.setenv("TRAINYARD_PRELOAD", given)
    with preloaded.libraries(Path.cwd(), stages) as variables:
        assert bool(variables) == loads
        if loads:
            address = Path(variables[preloaded.ADDRESS])
            assert soon(address.exists)
    assert not loads or not address.parent.exists()
