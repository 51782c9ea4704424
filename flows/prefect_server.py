"""Prefect's settings, the command of its server, and a temporary one of our own where there is no other.

The user's PREFECT_API_URL comes first, then the server that `trainyard serve` has brought up in this project. Prefect
would start a temporary one itself, but in our process group: there Ctrl-C ends it at once, and Prefect then tries for
a minute and more to tell it of the interrupt. This one starts while Prefect is still being imported, and ends last.
"""

import atexit
import contextlib
import importlib.metadata
import os
import secrets
import signal
import sys
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import click

from flows import masked, ports, private_file, project, served
from flows.console import LOOPBACK, QUIET, names_proxy, set_variables
from flows.orphan import WITH_PARENT
from flows.processes import ClosedError, Processes
from lightning_modules.errors import ExhaustedError, InputError, UnavailableError, disk_is_full, free

ROOM = 8 * 2**20  # bytes on the disk; an empty database takes a quarter of it
PATIENCE = 120  # seconds; on a busy machine with a new database it takes 20
GONE_AFTER = 60.0  # seconds without an answer from the server after which a command ends
GRACE = 15.0  # seconds that it is then given to end by itself: Prefect's client would try on for minutes
INTERVAL = 2.0  # seconds between two looks at whether the server answers

APP = "flows.door:prefect"
CSRF = "PREFECT_SERVER_CSRF_PROTECTION_ENABLED"

# Set while Prefect's server does not answer: each call would hold its caller up for a minute.
away = threading.Event()


def configure() -> None:
    """Environment for Prefect, which reads it when it is first imported; what the user set wins."""
    set_variables()
    if os.environ.get("PREFECT_API_URL"):
        with contextlib.suppress(InputError):  # outside of a project
            know_owner()
    else:
        os.environ.pop("PREFECT_API_URL", None)
        if here := served.addresses():
            os.environ["PREFECT_API_URL"] = here["prefect"]
            if here.get("own"):
                os.environ.pop("PREFECT_API_AUTH_STRING", None)  # of a server that is not meant
                know_owner()
        # Else Prefect writes into the user's home. It makes its own folder, but not the one above that.
        os.environ.setdefault("PREFECT_HOME", str(project.state_folder() / "prefect"))
        home = Path(os.environ["PREFECT_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        if free(home) < ROOM:  # where its database would begin to fail in a hundred ways
            raise ExhaustedError(disk_is_full(home))
    # The stages' lines are on the terminal already; Prefect keeps them for its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def own_secret() -> str:
    """Of this project's own server for good."""
    from flows import login  # which takes a library of locks: a command with a temporary server does without

    return login.basic()


def know_owner() -> None:
    """The secret of this project's own server, where PREFECT_API_URL names that one, which then has the address that it
    listens at; and no other server gets it."""
    here, given = served.addresses(), os.environ.get("PREFECT_API_AUTH_STRING")
    if here and here.get("own") and same_server(here["prefect"], os.environ["PREFECT_API_URL"]):
        if not ports.is_ours(here["prefect"]):  # it has gone, and its port is anybody's
            os.environ.pop("PREFECT_API_AUTH_STRING", None)
            return
        os.environ["PREFECT_API_URL"] = here["prefect"]
        os.environ["PREFECT_API_AUTH_STRING"] = given or own_secret()
    elif given and given == own_secret():
        del os.environ["PREFECT_API_AUTH_STRING"]


def same_server(one: str, other: str) -> bool:
    """Whether two addresses are of one server of this machine. By the name localhost another one may be reached, by
    IPv6."""
    try:
        parts = [urlsplit(one), urlsplit(other)]
        alike = all(part.scheme == "http" and part.hostname in ("127.0.0.1", "localhost") for part in parts)
        return alike and parts[0].port == parts[1].port
    except ValueError:  # `check_address` says so
        return False


def shown() -> str:
    """The address of Prefect's server, for a person to read."""
    return masked.address(os.environ["PREFECT_API_URL"])


def health() -> str:
    return f"{os.environ['PREFECT_API_URL'].rstrip('/')}/health"


def check_address() -> None:
    """Raises InputError where PREFECT_API_URL is no address of a server."""
    try:
        parts = urlsplit(os.environ["PREFECT_API_URL"])
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            f"PREFECT_API_URL is {shown()!r}, but has to be the address of a server's API, such as "
            "http://127.0.0.1:4200/api; where it is not set, a temporary server is used"
        )


def check(whose: str) -> None:
    """Of the server that PREFECT_API_URL names.

    Args:
        whose: who named it, and what to do where it is down.

    Raises:
        InputError: it is no address, or its secret is another one.
        UnavailableError: nobody answers there.
    """
    check_address()
    reason = ports.why_no_answer(health(), timeout=10)
    # Prefect's client knows kinds of proxies that Python's own does not.
    if reason and (urlsplit(health()).hostname in LOOPBACK or not names_proxy()):
        raise UnavailableError(f"Prefect's server at {shown()} does not answer ({masked.text(reason)}). {whose}")
    if not reason:
        check_secret()


def check_secret() -> None:
    """Raises InputError where the server that PREFECT_API_URL names wants another secret, or one at all."""
    secret = os.environ.get("PREFECT_API_AUTH_STRING")
    key = os.environ.get("PREFECT_API_KEY")
    sent = f"Basic {b64encode(secret.encode()).decode()}" if secret else f"Bearer {key}" if key else None
    if ports.wants_password(f"{os.environ['PREFECT_API_URL'].rstrip('/')}/version", sent, timeout=10):
        raise InputError(
            f"Prefect's server at {shown()} {'does not know this secret' if secret else 'wants its secret'}: set "
            "PREFECT_API_AUTH_STRING to it; that of `trainyard serve` is in .trainyard/serve/env of its project"
        )


def command(port: int) -> list[str]:
    """As Prefect 3.8 starts its own temporary server, but behind our door. The variables beside it make it one or
    another: PREFECT_SERVER_API_AUTH_STRING has to be among them."""
    return [
        sys.executable, "-c", WITH_PARENT, "uvicorn", "--app-dir", str(Path(__file__).parents[1]), "--factory", APP,
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on",
        "--timeout-graceful-shutdown", "2",
    ]  # fmt: skip


def closed(secret: str, port: int) -> dict[str, str]:
    """The variables of a server that lets in who knows the secret, and pages of its own alone."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        CSRF: "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
    }


def lasting(port: int) -> dict[str, str]:
    """The variables of a server that schedules and shows pages, beside those of `configure`."""
    return {
        **closed(own_secret(), port),
        "PREFECT_SERVER_UI_API_URL": "/api",  # by whatever name it is opened
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


class Database:
    """Prefect's database in PREFECT_HOME, a file of SQLite: two servers that begin with none, or with that of an older
    Prefect, would make it at the same time, and one or both fail.
    """

    def __init__(self) -> None:
        from filelock import FileLock

        self.folder = Path(os.environ["PREFECT_HOME"])
        self.mark = self.folder / ".prepared"  # by which version
        # One thread takes it, another one gives it back.
        self.lock = FileLock(self.folder / ".preparing.lock", thread_local=False)

    def is_prepared(self) -> bool:
        try:
            return (self.folder / "prefect.db").exists() and self.mark.read_text() == self.version()
        except FileNotFoundError:
            return False

    def version(self) -> str:
        return importlib.metadata.version("prefect")

    def may_start(self) -> bool:
        """Whether a server may start on it: it is prepared, or this process alone prepares it from now on."""
        from filelock import Timeout

        if not self.is_prepared():
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                return False
        private_file.create(self.folder / "prefect.db")
        if self.folder == project.state_folder() / "prefect":  # else it is the user's, as it is
            private_file.tighten(self.folder / "prefect.db")
        return True

    def prepared(self) -> None:
        """A server answers, which it does when it has made what it needs."""
        self.mark.write_text(self.version())
        self.release()

    def release(self) -> None:
        self.lock.release(force=True)


class TemporaryServer:
    """Prefect's API on a free port of this machine, for as long as this process lives."""

    def __init__(self) -> None:
        self.processes = Processes(grace=2)
        self.lines: deque[str] = deque(maxlen=20)
        self.code: int | None = None
        self.port = ports.free_port()
        self.secret = f"temporary:{secrets.token_hex(24)}"  # nobody needs it when the server is gone
        self.database = Database()
        self.started = threading.Event()
        # A daemon: Python waits for all other threads before it calls what is registered with atexit.
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def start(self) -> None:
        """Starts it and makes it Prefect's server in this process; to be called before Prefect is imported."""
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self.port}/api"
        os.environ["PREFECT_API_AUTH_STRING"] = self.secret
        # Of another server; Prefect cannot even be imported with one that it does not understand.
        for name in [name for name in os.environ if name.startswith("PREFECT_SERVER_") and name not in QUIET]:
            del os.environ[name]
        # Registered before Prefect's own: so it is called after them, when all has been sent.
        atexit.register(self.processes.end_all)
        self.thread.start()

    def serve(self) -> None:
        # In Prefect's folder, lest it reads the .env of the one from which the command was called.
        folder = Path(os.environ["PREFECT_HOME"]).absolute()
        try:
            while not self.database.may_start():
                if self.processes.closed.wait(0.2):
                    return
            self.started.set()
            # No browser knows its secret, and each token takes a request more.
            env = temporary(folder) | closed(self.secret, self.port) | {CSRF: "false"}
            self.code = self.processes.run(command(self.port), self.lines.append, cwd=folder, env=env)
        except ClosedError:
            return
        except OSError as error:
            self.lines.append(str(error))
        finally:
            self.started.set()

    def wait(self) -> None:
        """Returns when it answers.

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
                if ports.is_ours(health()) and ports.answers(health()):
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
    """The environment of a temporary server: without settings of another one, such as where its database is."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") or name in QUIET}
    return {
        **ours,
        "PREFECT_HOME": str(home),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }


class Watch:
    """Ends this process where Prefect's server has gone for good: as SIGTERM does, so that stages are ended and keep
    what they have, and if it does not end by itself, at once.

    Args:
        gone_after: seconds without an answer.
        last_words: called before the latter.
    """

    def __init__(self, gone_after: float, last_words: Callable[[], object] = lambda: None) -> None:
        self.gone_after, self.last_words = gone_after, last_words
        # None: it may be that only Prefect's own client gets there.
        self.answered = time.monotonic() if ports.answers(health(), timeout=10) else None
        self.lost = False
        self.told = False  # of it, the user
        self.over = False  # the process is about to end by itself
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.look, name="watch-server", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Goes on where the server is away: what Prefect does as a process exits would keep trying, too."""
        self.over = True
        if not away.is_set():
            self.stopped.set()

    def look(self) -> None:
        while not self.stopped.wait(INTERVAL):
            now = time.monotonic()
            if ports.answers(health(), timeout=10):
                self.answered = now
                away.clear()
            elif self.answered is None:
                continue
            elif not away.is_set():
                away.set()
                click.echo(
                    f"Prefect's server at {shown()} does not answer: stages go on, and all ends if it is not back "
                    f"within {self.gone_after:g} seconds",
                    err=True,
                )
            elif now - self.answered >= self.gone_after:
                break
        else:
            return
        self.lost = True
        if not self.over:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        if not self.told:
            self.last_words()
            click.echo(f"\ntrainyard: {gone()}", err=True)  # what Prefect printed last may have no end
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)


def gone() -> str:
    return (
        f"Prefect's server at {shown()} does not answer any more. What has finished is kept, and trainings to their "
        "last checkpoint: run it again, and it goes on from there"
    )
