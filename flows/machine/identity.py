"""Who a process is: described in plain JSON for notes and tags, and told from one that has got its number since."""

import os
import socket
from collections.abc import Mapping

import psutil

from flows.machine.orphans import still_runs

HOST, PID, STARTED = "host", "pid", "process_started"
SAME = 1.0  # seconds: the clock by which a start is told may be set meanwhile


def this_process(prefix: str = "") -> dict[str, str]:
    """A description of it: the host, the number, and the seconds since 1970 when it started. Each name begins with the
    prefix."""
    about = {HOST: socket.gethostname(), PID: os.getpid(), STARTED: psutil.Process().create_time()}
    return {f"{prefix}{name}": str(value) for name, value in about.items()}


def is_of_this_machine(described: Mapping, prefix: str = "") -> bool:
    """Whether the host of a description is this one, also where it names none."""
    return described.get(f"{prefix}{HOST}", socket.gethostname()) == socket.gethostname()


def is_alive(described: Mapping, prefix: str = "") -> bool:
    """Whether the process still runs on this machine. Raises KeyError, ValueError or TypeError for what is no
    description."""
    started = began(int(described[f"{prefix}{PID}"]))
    then = float(described[f"{prefix}{STARTED}"])
    return is_of_this_machine(described, prefix) and started is not None and abs(started - then) < SAME


def began(pid: int) -> float | None:
    """When the process that now has this number started, in seconds since 1970; None where none runs."""
    try:
        process = psutil.Process(pid)
        return process.create_time() if still_runs(process) else None
    except psutil.Error:
        return None
