"""A Prefect server for the time of one command, if there is no other."""

import atexit
import importlib.metadata
import os
import secrets
import signal
import threading
import time
from collections import deque
from pathlib import Path

import click

from flows.machine import ports
from flows.machine.environment_variables import QUIET
from flows.machine.processes import ClosedError, Processes
from flows.project import paths, private_files
from flows.project.errors import UnavailableError
from flows.servers import prefect_server

PATIENCE = 120  # seconds; on a busy machine with a new database it takes 20


class Database:
    """Prefect's SQLite database in PREFECT_HOME, and the lock on preparing it.

    Two servers that start without a database, or with that of an older Prefect, would both prepare it, and one or both
    would fail.
    """

    def __init__(self) -> None:
        from filelock import FileLock

        self.folder = Path(os.environ["PREFECT_HOME"])
        self.mark = self.folder / ".prepared"  # holds the version of Prefect that prepared it
        # One thread acquires it, another one releases it.
        self.lock = FileLock(self.folder / ".preparing.lock", thread_local=False)

    def is_prepared(self) -> bool:
        try:
            return (self.folder / "prefect.db").exists() and self.mark.read_text() == self.version()
        except FileNotFoundError:
            return False

    def version(self) -> str:
        return importlib.metadata.version("prefect")

    def may_start(self) -> bool:
        """Whether a server may start: the database is prepared, or this process has got the lock to prepare it."""
        from filelock import Timeout

        if not self.is_prepared():
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                return False
        private_files.create(self.folder / "prefect.db")
        if self.folder == paths.state_folder() / "prefect":  # the user's own folder stays as it is
            private_files.tighten(self.folder / "prefect.db")
        return True

    def prepared(self) -> None:
        """Marks the database as prepared. Called when a server answers, since that is after it has prepared it."""
        self.mark.write_text(self.version())
        self.release()

    def release(self) -> None:
        self.lock.release(force=True)


class TemporaryServer:
    """A Prefect API on a free port of this machine, which ends with this process."""

    def __init__(self) -> None:
        self.processes = Processes(grace=2)
        self.lines: deque[str] = deque(maxlen=20)
        self.code: int | None = None
        self.port = ports.free_port()
        self.secret = f"temporary:{secrets.token_hex(24)}"  # nobody needs it when the server is gone
        self.database = Database()
        self.started = threading.Event()
        # A daemon thread: Python waits for all others before it calls the functions registered with atexit.
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def start(self) -> None:
        """Starts it and makes it Prefect's server in this process. Call it before Prefect is imported."""
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self.port}/api"
        os.environ["PREFECT_API_AUTH_STRING"] = self.secret
        # Settings of another server. Prefect cannot even be imported with one that it does not understand.
        for name in [name for name in os.environ if name.startswith("PREFECT_SERVER_") and name not in QUIET]:
            del os.environ[name]
        # Registered before Prefect's own functions, so called after them, when Prefect has sent everything.
        atexit.register(self.processes.end_all)
        self.thread.start()

    def serve(self) -> None:
        # Runs in Prefect's folder: it would read a .env in the folder where the command was called.
        folder = Path(os.environ["PREFECT_HOME"]).absolute()
        try:
            while not self.database.may_start():
                if self.processes.closed.wait(0.2):
                    return
            self.started.set()
            # Without CSRF tokens, each of which takes another request: no browser has this server's secret.
            env = temporary(folder) | prefect_server.protected(self.secret, self.port) | {prefect_server.CSRF: "false"}
            self.code = self.processes.run(prefect_server.command(self.port), self.lines.append, cwd=folder, env=env)
        except ClosedError:
            return
        except OSError as error:
            self.lines.append(str(error))
        finally:
            self.started.set()

    def wait(self) -> None:
        """Waits until it answers.

        Raises:
            UnavailableError: it ended, or does not answer in time.
        """
        try:
            if not self.started.wait(1):
                click.echo("another command makes Prefect's database here: waiting for it", err=True)
            if not self.started.wait(PATIENCE):
                raise UnavailableError(
                    f"another command has been making Prefect's database in {self.database.folder} for {PATIENCE} "
                    "seconds: end it, and try again"
                )
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and self.thread.is_alive():
                if ports.is_ours(prefect_server.health()) and ports.answers(prefect_server.health()):
                    self.database.prepared()
                    return
                time.sleep(0.1)
        finally:
            self.database.release()
        raise UnavailableError(f"Prefect's temporary server {self.why_not()}")

    def why_not(self) -> str:
        lines = "".join(f"\n    {line}" for line in self.lines)
        if self.thread.is_alive():
            how = f"does not answer after {PATIENCE} seconds"
        elif self.code is None:
            how = "cannot be started"
        elif self.code < 0:
            how = f"was ended by {signal.Signals(-self.code).name}"
        else:
            how = f"ended with exit code {self.code}"
        return f"{how}. Its last lines:{lines}" if lines else f"{how}, and has said nothing"


def temporary(home: Path) -> dict[str, str]:
    """The environment of a temporary server, without settings of another server, such as its database."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") or name in QUIET}
    return {
        **ours,
        "PREFECT_HOME": str(home),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
