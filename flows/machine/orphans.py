"""Ends a stage whose DVC is gone, and a server whose pipeline is gone.

A SIGTERM or SIGKILL to `dvc repro` leaves its stage running. The stage would write its outputs later, when another run
may be at work on them. So a long stage watches the DVC that started it.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import PurePath

import psutil

# `python -c WITH_PARENT MODULE ARGUMENT...`: like `python -m MODULE`, but it ends when its parent does.
# It names this file by its path: the module may not be importable from the working folder. So this file imports
# nothing of flows.
WITH_PARENT = (
    f"import runpy, sys; runpy.run_path({__file__!r})['die_with_parent'](); "
    "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)

INTERVAL = 0.5  # seconds
GRACE = 5.0  # seconds for a signal handler to clean up


def die_with_dvc() -> threading.Thread | None:
    """Sends this process a SIGTERM as soon as the DVC that started it is gone.

    A stage calls it first: while the rest is imported, the signal's default action can still stop it.

    Returns:
        The watching thread, or None where no DVC started this process.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    dvc = next((process for process in psutil.Process().parents() if runs_dvc(process)), None)
    if dvc is None and not abandoned():
        return None
    return die_with(dvc)


def die_with_parent() -> threading.Thread:
    """Sends this process and its children a SIGTERM as soon as its parent is gone, even if killed by SIGKILL."""
    return die_with(psutil.Process().parent(), children=True)


def die_with(process: psutil.Process | None, children: bool = False) -> threading.Thread:
    watcher = threading.Thread(target=watch, args=(process, children), name="die-with", daemon=True)
    watcher.start()
    return watcher


def runs_dvc(process: psutil.Process) -> bool:
    """Whether it is `dvc`, `python /somewhere/bin/dvc`, `python -m dvc` or `python -c WITH_PARENT dvc`."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    names = [PurePath(word).name for word in command[:3]]
    with_parent = len(command) > 3 and command[1] == "-c" and "die_with_parent" in command[2]
    return "dvc" in names[:2] or command[1:3] == ["-m", "dvc"] or (with_parent and command[3] == "dvc")


def abandoned() -> bool:
    """Whether DVC ended before it could be watched: init is the parent now, but did not start this process's group."""
    return os.getppid() == 1 and os.getpgrp() != 1


def watch(process: psutil.Process | None, children: bool = False) -> None:
    while process is not None and still_runs(process):
        time.sleep(INTERVAL)
    for child in psutil.Process().children(recursive=True) if children else ():
        with contextlib.suppress(psutil.Error):
            child.terminate()
    os.kill(os.getpid(), signal.SIGTERM)
    # A handler that raises is not enough: Python drops exceptions that are raised inside a destructor.
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def still_runs(process: psutil.Process) -> bool:
    """False for a zombie, and for a stranger who has got the same number: psutil compares the time of creation."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
