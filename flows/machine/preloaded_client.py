"""Client of the preloaded libraries: a stage's process has its work done by a fork that has them loaded.

See flows/machine/preloaded_server.py for the server.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from typing import TextIO

from flows.project import messages

ADDRESS = "TRAINYARD_PRELOADED"  # the variable with the name of the socket, in Linux's abstract namespace
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_in_fork() -> int | None:
    """Runs this process's work in a fork with its arguments, folder, environment, CPU cores, input and outputs.

    SIGINT, SIGTERM and SIGHUP are passed on to the fork; a signal that ends the fork ends this process too.

    Returns:
        The fork's exit code; None where no process with the libraries answers, and nothing was started.
    """
    address, spec = os.environ.get(ADDRESS), sys.modules["__main__"].__spec__
    if not address or not spec:
        return None
    request = {
        "module": spec.name,
        "arguments": sys.argv,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "cores": sorted(os.sched_getaffinity(0)),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(f"\0{address}")
            if not same_user(connection):
                return None
            socket.send_fds(connection, [b"3"], [0, 1, 2])
            connection.sendall(json.dumps(request).encode() + b"\n")
            answers = connection.makefile()
            fork = answers.readline()
        except OSError:
            return None
        if not fork:
            return None
        return wait_for(int(fork), answers)


def wait_for(fork: int, answers: TextIO) -> int:
    """Waits for a fork, which leads its own process group, and passes signals on. Returns its exit code."""
    before = {number: signal.signal(number, lambda number, frame: signal_group(fork, number)) for number in FORWARDED}
    code = ""
    with contextlib.suppress(OSError):
        code = answers.readline()
    for number, handler in before.items():
        signal.signal(number, handler)
    if not code:
        signal_group(fork, signal.SIGKILL)  # the fork has ended, but not the processes that it started
        messages.warn("the process that had loaded the stage's libraries was killed")
        return 1
    if int(code) < 0:
        with contextlib.suppress(OSError):  # SIGKILL cannot have a handler
            signal.signal(-int(code), signal.SIG_DFL)
        os.kill(os.getpid(), -int(code))
    return int(code)


def signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def same_user(connection: socket.socket) -> bool:
    """Whether the other end is this user's: any user of this machine may take the name of an abstract socket."""
    about = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", about)[1] == os.geteuid()
