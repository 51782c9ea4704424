"""Commands that leave nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest
from conftest import LIMIT, soon

from flows.machine.processes import ClosedError, Lines, Processes, TimeLimitError


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(code)]


# A child of a child that ends itself only when it is killed, and tells its number.
STUBBORN = """
    import os, signal, subprocess, sys, time
    child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child += "print(os.getpid(), flush=True); time.sleep(3600)"
    subprocess.Popen([sys.executable, "-c", child])
    time.sleep(3600)
"""


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_both_outputs_come_as_lines_in_their_order_with_the_exit_code():
    lines = []
    code = "import sys; print('out'); print('err', file=sys.stderr); print('ö', end=''); sys.exit(3)"
    assert Processes().run(python(code), lines.append) == 3
    assert lines == ["out", "err", "ö"]


def test_lines_come_while_the_command_runs():
    first = threading.Event()
    processes = Processes()
    command = python("import time; print('now'); time.sleep(3600)")
    thread = threading.Thread(target=processes.run, args=(command, lambda line: first.set()))
    thread.start()
    assert first.wait(LIMIT)
    processes.end_all()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_of_a_line_drawn_again_the_last_state_is_kept():
    found = []
    lines = Lines(found.append)
    for chunk in (b"10%\r", b"50%\r100", b"%\nwindows\r", b"\n\xc3", b"\xb6\r\n", b"\n", b"rest"):
        lines.feed(chunk)
    lines.finish()
    assert found == ["100%", "windows", "ö", "", "rest"]


def test_a_progress_bar_takes_no_memory():
    lines = Lines(lambda line: None)
    for _ in range(1000):
        lines.feed(b"50 %\r" * 100)
    assert len(lines.rest) < 600


def test_end_all_ends_children_of_children_and_starts_none_after():
    found = []
    with Processes(grace=0.5) as processes:
        thread = threading.Thread(target=processes.run, args=(python(STUBBORN), found.append))
        thread.start()
        assert soon(lambda: found)
        assert not gone(int(found[0]))
        processes.end_all()
        assert gone(int(found[0]))
        thread.join(LIMIT)
        assert not processes.live
        with pytest.raises(ClosedError):
            processes.run(python("pass"), found.append)


def test_what_a_command_leaves_running_is_ended_with_it():
    found = []
    code = STUBBORN.replace("time.sleep(3600)\n", "time.sleep(0.5)\n")
    assert Processes(grace=0.2).run(python(code), found.append) == 0
    assert gone(int(found[0]))


def test_an_exception_in_the_callback_ends_the_command():
    seen = []

    def refuse(line: str) -> None:
        seen.append(int(line))
        raise LookupError(line)

    with pytest.raises(LookupError):
        Processes(grace=0.2).run(python(STUBBORN), refuse)
    assert gone(seen[0])


@pytest.mark.parametrize("silent", [False, True])
def test_a_time_limit_ends_the_command(silent, monkeypatch):
    found = []
    code = "import os, time; print(os.getpid()); "
    code += "os.close(1); os.close(2); time.sleep(3600)" if silent else "time.sleep(3600)"
    # The hour is over as soon as the command is at work, however long it took to start.
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + (3600 if found else 0))
    with pytest.raises(TimeLimitError, match="3600 s"):
        Processes().run(python(code), found.append, time_limit=3600)
    assert gone(int(found[0]))


def test_a_signalled_command_gives_a_negative_code():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert Processes().run(python(code), print) == -signal.SIGKILL


def test_a_command_that_does_not_exist_is_an_error():
    processes = Processes()
    with pytest.raises(OSError, match="no-such-command"):
        processes.run(["no-such-command"], print)
    assert not processes.live


def test_leaving_the_context_by_an_interrupt_ends_the_children(tmp_path):
    script = tmp_path / "caller.py"
    script.write_text(
        textwrap.dedent(f"""
        from flows.machine.processes import Processes
        import sys
        with Processes(grace=0.5) as processes:
            processes.run([sys.executable, "-c", {textwrap.dedent(STUBBORN)!r}], lambda line: print(line, flush=True))
        """)
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    caller = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    child = int(caller.stdout.readline())
    caller.send_signal(signal.SIGINT)
    assert caller.wait(LIMIT) != 0
    caller.stdout.close()
    assert gone(child)
