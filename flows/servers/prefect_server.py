"""Prefect's environment variables, and the command of a Prefect server.

The server is the one that PREFECT_API_URL names, else the one that `trainyard serve` has started in this project, else
a temporary one, see `temporary_server`. Prefect would start a temporary server itself, but in our process group: there
Ctrl-C ends it at once, and Prefect then tries for a minute or more to report the interrupt to it. Ours starts while
Prefect is still being imported, and ends last.
"""

import contextlib
import os
import sys
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

from flows.access import running_servers
from flows.machine import ports
from flows.machine.environment_variables import LOOPBACK, names_proxy, set_variables
from flows.machine.orphans import WITH_PARENT
from flows.project import paths
from flows.project.errors import ExhaustedError, InputError, UnavailableError, disk_is_full, free
from flows.untrusted import masking

PATIENCE = 60  # seconds that a server may take to answer: a machine on which members train keeps it waiting
ROOM = 8 * 2**20  # bytes of free disk space; an empty database takes a quarter of it

APP = "flows.access.door:prefect"
CSRF = "PREFECT_SERVER_CSRF_PROTECTION_ENABLED"


def configure() -> None:
    """Sets Prefect's environment variables. Prefect reads them when it is first imported. The user's own values win."""
    set_variables()
    if os.environ.get("PREFECT_API_URL"):
        with contextlib.suppress(InputError):  # outside of a project
            use_own_secret()
    else:
        os.environ.pop("PREFECT_API_URL", None)
        if here := running_servers.addresses():
            os.environ["PREFECT_API_URL"] = here["prefect"]
            if here.get("own"):
                os.environ.pop("PREFECT_API_AUTH_STRING", None)  # the secret of another server
                use_own_secret()
        # By default Prefect writes into the user's home. It creates its folder, but not the parent of that.
        os.environ.setdefault("PREFECT_HOME", str(paths.state_folder() / "prefect"))
        home = Path(os.environ["PREFECT_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        if free(home) < ROOM:  # on a full disk Prefect's database would fail in a hundred ways
            raise ExhaustedError(disk_is_full(home))
    # Prefect logs the stages' output for its UI; on the terminal it is already.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def own_secret() -> str:
    """The permanent secret of this project's own server."""
    from flows.access import login  # imports filelock, which a command with a temporary server does not need

    return login.credentials()


def use_own_secret() -> None:
    """If PREFECT_API_URL names this project's own server, sets its secret, and the address that it listens at. Removes
    that secret if PREFECT_API_URL names another server."""
    here, given = running_servers.addresses(), os.environ.get("PREFECT_API_AUTH_STRING")
    if here and here.get("own") and same_server(here["prefect"], os.environ["PREFECT_API_URL"]):
        if not ports.is_ours(here["prefect"]):  # the server has ended, and anybody may listen on its port
            os.environ.pop("PREFECT_API_AUTH_STRING", None)
            return
        os.environ["PREFECT_API_URL"] = here["prefect"]
        os.environ["PREFECT_API_AUTH_STRING"] = given or own_secret()
    elif given and given == own_secret():
        del os.environ["PREFECT_API_AUTH_STRING"]


def same_server(one: str, other: str) -> bool:
    """Whether two addresses are those of one server on this machine. By IPv6, localhost may still lead to another."""
    try:
        parts = [urlsplit(one), urlsplit(other)]
        alike = all(part.scheme == "http" and part.hostname in ("127.0.0.1", "localhost") for part in parts)
        return alike and parts[0].port == parts[1].port
    except ValueError:  # `check_address` raises the error
        return False


def shown() -> str:
    """The address of Prefect's server as a person may see it, without secrets."""
    return masking.address(os.environ["PREFECT_API_URL"])


def health() -> str:
    return f"{os.environ['PREFECT_API_URL'].rstrip('/')}/health"


def check_address() -> None:
    """Raises InputError if PREFECT_API_URL is no address of a server."""
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
    """Checks that the server that PREFECT_API_URL names answers.

    Args:
        whose: for the message: who named the server, and what to do if it is down.

    Raises:
        InputError: PREFECT_API_URL is no address, or the secret is wrong.
        UnavailableError: the server does not answer.
    """
    check_address()
    reason = ports.why_no_answer(health(), timeout=PATIENCE)
    # Through a proxy only Prefect's client may get there: it knows kinds of proxies that Python's own does not.
    if reason and (urlsplit(health()).hostname in LOOPBACK or not names_proxy()):
        raise UnavailableError(f"Prefect's server at {shown()} does not answer ({masking.text(reason)}). {whose}")
    if not reason:
        check_secret()


def check_secret() -> None:
    """Raises InputError if the server that PREFECT_API_URL names refuses our secret, or wants one and we have none."""
    secret = os.environ.get("PREFECT_API_AUTH_STRING")
    key = os.environ.get("PREFECT_API_KEY")
    sent = f"Basic {b64encode(secret.encode()).decode()}" if secret else f"Bearer {key}" if key else None
    if ports.wants_password(f"{os.environ['PREFECT_API_URL'].rstrip('/')}/version", sent, timeout=PATIENCE):
        raise InputError(
            f"Prefect's server at {shown()} {'does not know this secret' if secret else 'wants its secret'}: set "
            "PREFECT_API_AUTH_STRING to it; that of `trainyard serve` is in .trainyard/serve/env of its project"
        )


def command(port: int) -> list[str]:
    """The command by which Prefect 3.8 starts a temporary server, with our login in front, see `flows.access.door`.
    Its environment makes it a temporary or a permanent server, and has to contain PREFECT_SERVER_API_AUTH_STRING.
    """
    return [
        sys.executable, "-c", WITH_PARENT, "uvicorn", "--app-dir", str(Path(__file__).parents[2]), "--factory", APP,
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on",
        "--timeout-graceful-shutdown", "2",
    ]  # fmt: skip


def protected(secret: str, port: int) -> dict[str, str]:
    """Environment variables of a server that requires the secret, and answers only requests of its own pages."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        CSRF: "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
    }


def permanent(port: int) -> dict[str, str]:
    """Environment variables of a permanent server, with a scheduler and pages, beside those of `configure`."""
    return {
        **protected(own_secret(), port),
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative, for whatever host name the page is opened by
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        # By default leases of concurrency slots are kept in memory: after a kill of the server a deployment's slot
        # would be occupied for ever, and each of its runs cancelled.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # By default flow runs are kept for ever, and the deployment that watches a folder makes 144 a day. This deletes
        # those that ended 90 days ago, or PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD seconds ago.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT__SERVER_FINAL": "1",
    }
