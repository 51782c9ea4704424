"""The side of the stage: hands its work to a fork of the process that has the libraries loaded, and stands for it.

See flows/machine/preloaded_server.py for the other side.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from typing import TextIO

ADDRESS = "TRAINYARD_PRELOADED"  # the variable that has the name of the socket, in Linux's abstract namespace
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hand_over() -> int | None:
    """Lets a fork be this process: with its arguments, folder, environment, CPU cores, input and outputs.

    Signals that ask to end are passed on; one that ends the fork ends this process too.

    Returns:
        The fork's exit code; None where there is no process with the libraries, and nothing was begun.
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
        return stand_for(int(fork), answers)


def stand_for(fork: int, answers: TextIO) -> int:
    """Waits for a fork, which leads a process group of its own; returns its exit code."""
    before = {number: signal.signal(number, lambda number, frame: signal_group(fork, number)) for number in FORWARDED}
    code = ""
    with contextlib.suppress(OSError):
        code = answers.readline()
    for number, handler in before.items():
        signal.signal(number, handler)
    if not code:
        signal_group(fork, signal.SIGKILL)  # the fork itself has ended, but not what it has started
        print("trainyard: the process that had loaded the stage's libraries was killed", file=sys.stderr)
        return 1
    if int(code) < 0:
        with contextlib.suppress(OSError):  # KILL has no other handler
            signal.signal(-int(code), signal.SIG_DFL)
        os.kill(os.getpid(), -int(code))
    return int(code)


def signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def same_user(connection: socket.socket) -> bool:
    """Whether the other end is this user's: anybody on this machine may use the names of abstract sockets."""
    about = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", about)[1] == os.geteuid()
