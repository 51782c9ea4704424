"""Prefect's settings, the command of its server, and a temporary one of our own where there is no other.

The user's PREFECT_API_URL comes first, then the server that `trainyard serve` has brought up in this project. Prefect
would start a temporary one itself, but in our process group: there Ctrl-C ends it at once, and Prefect then tries for
a minute and more to tell it of the interrupt. This one starts while Prefect is still being imported, and ends last.
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

ROOM = 8 * 2**20  # bytes on the disk; an empty database takes a quarter of it

APP = "flows.access.door:prefect"
CSRF = "PREFECT_SERVER_CSRF_PROTECTION_ENABLED"


def configure() -> None:
    """Environment for Prefect, which reads it when it is first imported; what the user set wins."""
    set_variables()
    if os.environ.get("PREFECT_API_URL"):
        with contextlib.suppress(InputError):  # outside of a project
            know_owner()
    else:
        os.environ.pop("PREFECT_API_URL", None)
        if here := running_servers.addresses():
            os.environ["PREFECT_API_URL"] = here["prefect"]
            if here.get("own"):
                os.environ.pop("PREFECT_API_AUTH_STRING", None)  # of a server that is not meant
                know_owner()
        # Else Prefect writes into the user's home. It makes its own folder, but not the one above that.
        os.environ.setdefault("PREFECT_HOME", str(paths.state_folder() / "prefect"))
        home = Path(os.environ["PREFECT_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        if free(home) < ROOM:  # where its database would begin to fail in a hundred ways
            raise ExhaustedError(disk_is_full(home))
    # The stages' lines are on the terminal already; Prefect keeps them for its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def own_secret() -> str:
    """Of this project's own server for good."""
    from flows.access import login  # which takes a library of locks: a command with a temporary server does without

    return login.basic()


def know_owner() -> None:
    """The secret of this project's own server, where PREFECT_API_URL names that one, which then has the address that it
    listens at; and no other server gets it."""
    here, given = running_servers.addresses(), os.environ.get("PREFECT_API_AUTH_STRING")
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
    return masking.address(os.environ["PREFECT_API_URL"])


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
        raise UnavailableError(f"Prefect's server at {shown()} does not answer ({masking.text(reason)}). {whose}")
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
        sys.executable, "-c", WITH_PARENT, "uvicorn", "--app-dir", str(Path(__file__).parents[2]), "--factory", APP,
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
