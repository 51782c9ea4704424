"""Prefect's settings, and a temporary server of our own where the user names none.

Prefect would start one itself, but in our process group: there Ctrl-C ends it at once, and Prefect then tries for
a minute and more to tell it of the interrupt. This one starts while Prefect is still being imported, and ends last.
"""

import atexit
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path

from flows import project
from flows.console import QUIET
from flows.processes import ClosedError, Processes
from lightning_modules.errors import UnavailableError

PATIENCE = 120  # seconds; on a busy machine with a new database it takes 20
# `python -m uvicorn`, which ends with the pipeline even where that is killed.
SERVE = (
    "import runpy; from flows.orphan import die_with_parent; die_with_parent(); "
    "runpy.run_module('uvicorn', run_name='__main__', alter_sys=True)"
)


def configure() -> None:
    """Environment for Prefect, which reads it when it is first imported; what the user set wins."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    if "PREFECT_API_URL" not in os.environ:
        # Else Prefect writes into the user's home. It makes its own folder, but not the one above that.
        os.environ.setdefault("PREFECT_HOME", str(project.state_folder() / "prefect"))
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    # The stages' lines are on the terminal already; Prefect keeps them for its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


class TemporaryServer:
    """Prefect's API on a free port of this machine, for as long as this process lives."""

    def __init__(self) -> None:
        self.processes = Processes(grace=2)
        self.lines: deque[str] = deque(maxlen=20)
        self.port = free_port()
        # A daemon: Python waits for all other threads before it calls what is registered with atexit.
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def start(self) -> None:
        """Starts it and makes it Prefect's server in this process; to be called before Prefect is imported."""
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self.port}/api"
        # Registered before Prefect's own: so it is called after them, when all has been sent.
        atexit.register(self.processes.end_all)
        self.thread.start()

    def serve(self) -> None:
        # The command and variables with which Prefect 3.8 starts its own temporary server.
        command = [sys.executable, "-c", SERVE, "--factory", "prefect.server.api.server:create_app"]
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on"]
        env = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        try:
            self.processes.run([*command, *options], self.lines.append, env={**os.environ, **env})
        except ClosedError:
            return

    def wait(self) -> None:
        """Returns when it answers.

        Raises:
            UnavailableError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.thread.is_alive():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise UnavailableError("Prefect's temporary server does not answer:\n" + "\n".join(self.lines))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
