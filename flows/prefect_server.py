"""Prefect's settings, the command of its server, and a temporary one of our own where there is no other.

The user's PREFECT_API_URL comes first, then the server that `trainyard serve` has brought up in this project. Prefect
would start a temporary one itself, but in our process group: there Ctrl-C ends it at once, and Prefect then tries for
a minute and more to tell it of the interrupt. This one starts while Prefect is still being imported, and ends last.
"""

import atexit
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

from flows import ports, project, served
from flows.console import QUIET
from flows.orphan import WITH_PARENT
from flows.processes import ClosedError, Processes
from lightning_modules.errors import ExhaustedError, UnavailableError, disk_is_full, free

ROOM = 8 * 2**20  # bytes on the disk; an empty database takes a quarter of it
PATIENCE = 120  # seconds; on a busy machine with a new database it takes 20


def configure() -> None:
    """Environment for Prefect, which reads it when it is first imported; what the user set wins."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    if "PREFECT_API_URL" not in os.environ:
        if here := served.addresses():
            os.environ["PREFECT_API_URL"] = here["prefect"]
        # Else Prefect writes into the user's home. It makes its own folder, but not the one above that.
        os.environ.setdefault("PREFECT_HOME", str(project.state_folder() / "prefect"))
        home = Path(os.environ["PREFECT_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        if free(home) < ROOM:  # where its database would begin to fail in a hundred ways
            raise ExhaustedError(disk_is_full(home))
    # The stages' lines are on the terminal already; Prefect keeps them for its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def command(port: int) -> list[str]:
    """With which Prefect 3.8 starts its own temporary server; the variables beside it make it one or another."""
    return [
        sys.executable, "-c", WITH_PARENT, "uvicorn", "--factory", "prefect.server.api.server:create_app",
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on",
        "--timeout-graceful-shutdown", "2",
    ]  # fmt: skip


def lasting(port: int) -> dict[str, str]:
    """The variables of a server that schedules and shows pages, beside those of `configure`."""
    return {
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        # By default who holds which slot is kept in memory: a server that was killed would hold a deployment's slot
        # for ever, and cancel each of its runs.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # By default flow runs are kept for ever, and one that watches a folder makes 144 a day. This deletes those that
        # ended 90 days ago, or as many seconds ago as PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD says.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT__SERVER_FINAL": "1",
    }


class TemporaryServer:
    """Prefect's API on a free port of this machine, for as long as this process lives."""

    def __init__(self) -> None:
        self.processes = Processes(grace=2)
        self.lines: deque[str] = deque(maxlen=20)
        self.port = ports.free_port()
        # A daemon: Python waits for all other threads before it calls what is registered with atexit.
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def start(self) -> None:
        """Starts it and makes it Prefect's server in this process; to be called before Prefect is imported."""
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self.port}/api"
        # Registered before Prefect's own: so it is called after them, when all has been sent.
        atexit.register(self.processes.end_all)
        self.thread.start()

    def serve(self) -> None:
        env = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        try:
            self.processes.run(command(self.port), self.lines.append, env={**os.environ, **env})
        except ClosedError:
            return

    def wait(self) -> None:
        """Returns when it answers.

        Raises:
            UnavailableError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.thread.is_alive():
            if ports.answers(f"http://127.0.0.1:{self.port}/api/health"):
                return
            time.sleep(0.1)
        raise UnavailableError("Prefect's temporary server does not answer:\n" + "\n".join(self.lines))
