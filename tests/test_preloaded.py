"""A stage in a fork of the process that has loaded its libraries, and what becomes of it when one of them is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from conftest import LIMIT, soon

from flows.machine import preloaded_client, preloaded_server
from flows.machine.processes import Processes, TimeLimitError

WAIT = "time.sleep(3600)\n"  # of the stage, at which tests put something else
STAGE = """
    import os, sys, time, click
    from flows.machine.console import run

    @click.command()
    @click.argument("what", nargs=-1)
    def command(what):
        loaded = "colorsys" in sys.modules
        print(os.getpid(), os.getppid(), os.getcwd(), os.environ.get("COLOUR"), *what, loaded, flush=True)
        print("to stderr", file=sys.stderr)
        if "wait" in what:
            import subprocess
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            print(child.pid, flush=True)
            WAIT
        if "die" in what:
            os.kill(os.getpid(), 9)
        if "fail" in what:
            from flows.project.errors import InputError
            raise InputError("it is too green")

    if __name__ == "__main__":
        run(command, libraries=True)
""".replace("WAIT\n", WAIT)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a_stage.py").write_text(textwrap.dedent(STAGE))
    return tmp_path


def listening(address: str) -> bool:
    return f"@{address}" in Path("/proc/net/unix").read_text()


@contextmanager
def serving(folder: Path, monkeypatch, program: list[str], *names: str) -> Iterator[psutil.Popen]:
    """The process with libraries, and the variable by which stages find it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(folder), *sys.path]))
    address = f"trainyard-test-{uuid.uuid4().hex}"
    process = psutil.Popen([sys.executable, *program, address, *names], stdin=subprocess.PIPE)
    monkeypatch.setenv(preloaded_client.ADDRESS, address)
    try:
        assert soon(lambda: listening(address))
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()
        process.stdin.close()
        process.wait()


@pytest.fixture
def server(folder, monkeypatch):
    with serving(
        folder, monkeypatch, ["-m", "flows.machine.preloaded_server"], "colorsys", "no_such_library"
    ) as process:
        yield process


def stage(folder: Path, *arguments: str, **env: str) -> psutil.Popen:
    return psutil.Popen(
        [sys.executable, "-m", "a_stage", *arguments], cwd=folder, env={**os.environ, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def gone(*pids: int) -> bool:
    def alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(map(alive, pids))


def test_a_fork_is_the_stage(folder, server):
    own = stage(folder, "one", "two words", COLOUR="green")
    said, warned = own.communicate(timeout=LIMIT)
    pid, parent, *rest = said.split()
    assert int(pid) != own.pid
    assert int(parent) == server.pid
    assert rest == [os.fspath(folder), "green", "one", "two", "words", "True"]
    assert warned == "to stderr\n"
    assert own.returncode == 0


def test_its_exit_code_and_its_sentence_are_the_stages(folder, server):
    failing = stage(folder, "fail")
    _, warned = failing.communicate(timeout=LIMIT)
    assert failing.returncode == 2
    assert warned == "to stderr\ntrainyard: it is too green\n"


def test_a_signal_that_ends_the_fork_ends_the_stage(folder, server):
    dying = stage(folder, "die")
    dying.communicate(timeout=LIMIT)
    assert dying.returncode == -signal.SIGKILL


def test_many_at_once_are_kept_apart(folder, server):
    stages = [stage(folder, str(number)) for number in range(12)]
    for number, one in enumerate(stages):
        said, _ = one.communicate(timeout=LIMIT)
        assert said.split()[4] == str(number)
        assert one.returncode == 0


def test_the_projects_code_is_as_it_is_when_the_stage_begins(folder, server):
    assert stage(folder).communicate(timeout=LIMIT)[0]
    (folder / "a_stage.py").write_text(textwrap.dedent(STAGE).replace("os.getcwd()", "'edited'"))
    assert "edited" in stage(folder).communicate(timeout=LIMIT)[0]


def begin(folder: Path) -> tuple[psutil.Popen, int, int]:
    """A stage at work: its own process, the fork, and a child of the fork."""
    own = stage(folder, "wait")
    fork = int(own.stdout.readline().split()[0])
    return own, fork, int(own.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_stage_ends_the_fork_and_its_children(folder, server, number):
    own, fork, child = begin(folder)
    own.send_signal(number)
    own.communicate(timeout=LIMIT)
    assert own.returncode == -number
    assert soon(lambda: gone(fork, child))
    assert stage(folder).communicate(timeout=LIMIT)[0]  # the next one is served


STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(3600)\n"


def test_a_time_limit_ends_a_stage_that_does_not_end_when_asked(folder, server, monkeypatch):
    (folder / "a_stage.py").write_text(textwrap.dedent(STAGE).replace(WAIT, STUBBORN))
    lines = []
    # The hour is over as soon as the stage does not listen any more.
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + (3600 if "deaf" in lines else 0))
    with Processes(grace=0.5) as processes, pytest.raises(TimeLimitError):
        processes.run([sys.executable, "-m", "a_stage", "wait"], lines.append, cwd=folder, time_limit=3600)
    assert "deaf" in lines
    assert soon(lambda: gone(int(lines[0].split()[0]), int(lines[2])))


def test_a_stage_that_is_killed_before_it_is_served_does_not_begin(folder, monkeypatch):
    (folder / "slow_library.py").write_text("import time; time.sleep(3)")
    with serving(folder, monkeypatch, ["-m", "flows.machine.preloaded_server"], "slow_library") as server:
        begun = "open('begun', 'a').write(f'{what}\\n'); print("
        (folder / "a_stage.py").write_text(textwrap.dedent(STAGE).replace("print(", begun, 1))
        early = stage(folder, "early")
        time.sleep(1)
        early.kill()
        early.communicate()
        stage(folder, "late").communicate(timeout=LIMIT)
        time.sleep(0.5)
        assert (folder / "begun").read_text() == "('late',)\n"
        assert not server.children()


@pytest.mark.parametrize("code", ["raise RuntimeError('a broken library')", "import os; os._exit(3)"])
def test_a_library_that_cannot_be_loaded_costs_no_stage(folder, monkeypatch, code):
    (folder / "broken_library.py").write_text("import time; time.sleep(1); " + code)
    with serving(folder, monkeypatch, ["-m", "flows.machine.preloaded_server"], "broken_library"):
        said, _ = stage(folder, "one").communicate(timeout=LIMIT)
        assert said.split()[4] == "one"


def test_no_room_for_a_process_leaves_the_others_at_work(folder, monkeypatch):
    program = """
        import errno, os, sys
        from flows.machine import preloaded_server
        fork, forks = os.fork, []
        def failing():
            forks.append(1)
            if len(forks) == 2:
                raise OSError(errno.EAGAIN, "no room")
            return fork()
        os.fork = failing
        preloaded_server.main(sys.argv[1], sys.argv[2:])
    """
    with serving(folder, monkeypatch, ["-c", textwrap.dedent(program)], "colorsys") as server:
        first, fork, _ = begin(folder)
        own = stage(folder)
        assert int(own.communicate(timeout=LIMIT)[0].split()[0]) == own.pid
        last = stage(folder)
        assert int(last.communicate(timeout=LIMIT)[0].split()[0]) != last.pid
        assert not gone(fork)
        assert server.is_running()
        first.kill()
        first.communicate()


def test_two_ends_at_the_same_moment_leave_the_others_at_work(folder, server):
    dying, fork, _ = begin(folder)
    other, at_work, _ = begin(folder)
    server.suspend()  # a busy machine
    os.kill(fork, signal.SIGKILL)
    assert soon(lambda: gone(fork))
    dying.kill()
    dying.wait()
    server.resume()
    assert stage(folder).communicate(timeout=LIMIT)[0]
    assert not gone(at_work)
    other.kill()
    other.communicate()


def test_a_signal_that_comes_at_once_is_not_lost(folder, server):
    imports, rest = textwrap.dedent(STAGE).lstrip().split("\n", 1)
    (folder / "a_stage.py").write_text(f"{imports}\nif 'colorsys' in sys.modules: time.sleep(3600)\n{rest}")
    for _ in range(5):
        own = stage(folder)
        assert soon(lambda: server.children())
        own.terminate()
        own.communicate(timeout=LIMIT)
        assert own.returncode == -signal.SIGTERM
        assert soon(lambda: not server.children())


def test_an_interrupt_reaches_the_fork(folder, server):
    own, fork, child = begin(folder)
    own.send_signal(signal.SIGINT)
    own.communicate(timeout=LIMIT)
    assert own.returncode in (130, -signal.SIGINT)
    assert soon(lambda: gone(fork, child))


def test_killing_the_process_with_the_libraries_ends_its_stages_with_a_sentence(folder, server):
    own, fork, child = begin(folder)
    server.kill()
    _, warned = own.communicate(timeout=LIMIT)
    assert own.returncode == 1
    assert "was killed" in warned
    assert soon(lambda: gone(fork, child))
    alone = stage(folder)  # the next one does without
    assert int(alone.communicate(timeout=LIMIT)[0].split()[0]) == alone.pid


def test_it_ends_with_the_process_that_started_it(folder, server):
    """And before it its stages, which are asked to end: they write what they have to."""
    tidy = "import signal; signal.signal(15, lambda *_: (open('tidied', 'w').close(), sys.exit(143))); "
    tidy += "print('tidy', flush=True); "
    (folder / "a_stage.py").write_text(textwrap.dedent(STAGE).replace(WAIT, tidy + WAIT))
    own, fork, child = begin(folder)
    assert own.stdout.readline() == "tidy\n"
    server.stdin.close()
    assert server.wait(LIMIT) == 0
    assert soon(lambda: gone(fork, child))
    assert (folder / "tidied").exists()
    own.communicate(timeout=LIMIT)
    assert own.returncode == 143


def test_one_that_does_not_end_when_asked_does_not_keep_it(folder, server):
    (folder / "a_stage.py").write_text(textwrap.dedent(STAGE).replace(WAIT, STUBBORN))
    own, fork, child = begin(folder)
    assert own.stdout.readline() == "deaf\n"
    server.stdin.close()
    assert server.wait(LIMIT) == 0
    assert soon(lambda: gone(fork, child))
    own.communicate(timeout=LIMIT)


@pytest.mark.parametrize("code", ["import time; time.sleep(3600)", "import ctypes; ctypes.PyDLL(None).sleep(3600)"])
def test_it_ends_with_the_process_that_started_it_while_it_imports(folder, monkeypatch, code):
    """Also where the import lets nothing else of Python run: PyDLL holds its lock."""
    (folder / "slow_library.py").write_text(f"open('begun', 'w').close(); {code}")
    monkeypatch.chdir(folder)
    with serving(folder, monkeypatch, ["-m", "flows.machine.preloaded_server"], "slow_library") as server:
        assert soon((folder / "begun").exists)
        server.stdin.close()
        assert server.wait(LIMIT) == -signal.SIGIO


def test_ending_it_ends_its_stages(folder, server):
    own, fork, child = begin(folder)
    server.terminate()
    server.wait(LIMIT)
    own.communicate(timeout=LIMIT)
    assert own.returncode == 1
    assert soon(lambda: gone(fork, child))


def test_threads_and_cores_are_those_of_the_stage(folder, monkeypatch):
    look = """
        import os, click, numpy, threadpoolctl
        from flows.machine.console import run

        @click.command()
        def command():
            pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
            print(os.getppid(), pools, os.sched_getaffinity(0), numpy.random.rand())

        if __name__ == "__main__":
            run(command, libraries=True)
    """
    (folder / "a_stage.py").write_text(textwrap.dedent(look))
    core = min(os.sched_getaffinity(0))
    with serving(folder, monkeypatch, ["-m", "flows.machine.preloaded_server"], "numpy", "threadpoolctl") as server:
        said = []
        for _ in range(2):
            pinned = ["taskset", "-c", str(core), sys.executable, "-m", "a_stage"]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            said.append(subprocess.run(pinned, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout)
        assert all(line.startswith(f"{server.pid} {{1}} {{{core}}} ") for line in said)
        assert said[0] != said[1]


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
    if given:
        monkeypatch.setenv("TRAINYARD_PRELOAD", given)
    with preloaded_server.libraries(Path.cwd(), stages) as variables:
        assert bool(variables) == loads
        assert not loads or soon(lambda: listening(variables[preloaded_client.ADDRESS]))
    assert not loads or not listening(variables[preloaded_client.ADDRESS])


def test_without_room_for_it_each_stage_loads_its_own(monkeypatch):
    def full(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr(subprocess, "Popen", full)
    with preloaded_server.libraries(Path.cwd(), ["train@a", "train@b"]) as variables:
        assert variables == {}


@pytest.mark.parametrize("name", preloaded_server.LIBRARIES)
def test_libraries_are_where_they_are_loaded_from(name):
    assert importlib.util.find_spec(name)
